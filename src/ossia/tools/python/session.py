"""One sandboxed process, as the server sees it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ossia.tools.python.sandbox import frames
from ossia.tools.python.sandbox.settings import Settings, to_message

START_SECONDS = 20.0
_SPARE = 10.0  # seconds past all limits, after which the sandbox itself is taken to be broken
_LAUNCH = "import sys; sys.path.append(sys.argv[1]); from sandbox.launcher import main; main()"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one piece of code."""

    how: str  # "ok", "error", "timeout", "interrupted", "exit", "signal", "memory" or "lost"
    output: str  # the beginning, which `progress` was given too
    left_out: int = 0  # bytes of output after `output` and before `tail`
    tail: str = ""
    detail: str = ""  # the exit status, or the signal's name
    ended: bool = False  # the process is gone, and all variables with it


class StartFailed(Exception):
    """The sandbox cannot be made: the step at which it failed, and the system's reason."""


class _Gone(Exception):
    """The sandbox is not there any more."""


def launch_command() -> list[str]:
    """Starts the launcher with the standard library only, by the interpreter of this process.

    The launcher's files are found under their folder's own name, so that the server's packages
    are not imported.
    """
    executable = os.path.realpath(sys.executable)
    return [executable, "-I", "-S", "-c", _LAUNCH, str(Path(__file__).parent)]


def check_ready(message: Mapping[str, Any] | None) -> None:
    """Read the launcher's first message.

    Raises:
        StartFailed: it says that it failed, or ended without a word.
    """
    if message is None:
        raise StartFailed("start", "the interpreter does not start inside of it")
    if "ready" not in message:
        if "failed" in message:
            raise StartFailed(str(message["failed"]), str(message["error"]))
        raise StartFailed("start", f"the interpreter ends with {message.get('detail')}")


class Session:
    """Runs one piece of code after the other, in one process that keeps their variables."""

    def __init__(self, process: asyncio.subprocess.Process, grace: float) -> None:
        """For `start`; `grace` in seconds."""
        self._process = process
        self._grace = grace
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[Outcome] | None = None
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._ended = False

    @classmethod
    async def start(cls, settings: Settings) -> Session:
        """A new one.

        Raises:
            StartFailed: this machine refuses.
        """
        process = await asyncio.create_subprocess_exec(
            *launch_command(),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
        )
        session = cls(process, settings.grace)
        try:
            async with asyncio.timeout(START_SECONDS):
                await session._send(to_message(settings))
                check_ready(await session._receive())
        except _Gone:
            await session.close()
            check_ready(None)
        except TimeoutError:
            await session.close()
            raise StartFailed("start", f"nothing happened in {START_SECONDS:.0f} s") from None
        except BaseException:
            await session.close()
            raise
        return session

    async def run(self, code: str, seconds: float, progress: Callable[[str], None]) -> Outcome:
        """Execute code for at most `seconds`; `progress` gets what it prints.

        Cancelled, the code is interrupted; the next piece waits for that.
        """
        listening = True

        def pass_on(text: str) -> None:
            if listening:
                progress(text)

        task = asyncio.create_task(self._run_in_turn(code, seconds, pass_on))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            listening = False
            if self._running is task:
                self._write({"interrupt": True})
            else:
                task.cancel()
            raise

    @property
    def alive(self) -> bool:
        """Whether code can run in it."""
        return not self._ended and self._process.returncode is None

    async def close(self) -> None:
        """End it and all that runs in it."""
        self._hang_up()
        try:
            async with asyncio.timeout(_SPARE):
                if self._tasks:
                    await asyncio.wait(self._tasks)
                assert self._process.stdout is not None
                await self._process.stdout.read()  # it may wait for that
                await self._process.wait()
        except TimeoutError:
            self._kill()
            await self._process.wait()

    async def _run_in_turn(
        self, code: str, seconds: float, progress: Callable[[str], None]
    ) -> Outcome:
        async with self._turn:
            self._running = asyncio.current_task()
            try:
                return await self._run(code, seconds, progress)
            except BaseException:
                self._hang_up()  # nobody knows what it does now
                raise
            finally:
                self._running = None

    async def _run(self, code: str, seconds: float, progress: Callable[[str], None]) -> Outcome:
        shown: list[str] = []
        try:
            async with asyncio.timeout(seconds + self._grace + _SPARE):
                await self._send({"run": code, "seconds": seconds})
                while "output" in (event := await self._receive()):
                    shown.append(str(event["output"]))
                    progress(shown[-1])
        except (TimeoutError, _Gone) as error:
            event = {"ended": "lost"}
            if isinstance(error, TimeoutError):
                self._kill()
        if "done" not in event:
            self._hang_up()
        return Outcome(
            how=str(event.get("done") or event.get("ended")),
            output="".join(shown),
            left_out=int(event.get("left_out", 0)),
            tail=str(event.get("tail", "")),
            detail=str(event.get("detail", "")),
            ended=self._ended,
        )

    def _hang_up(self) -> None:
        self._ended = True
        assert self._process.stdin is not None
        self._process.stdin.close()  # at which the sandbox ends

    def _kill(self) -> None:
        self._ended = True
        try:
            self._process.kill()  # at which the kernel ends all that it has started
        except ProcessLookupError:
            return

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(frames.pack(message))

    async def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._write(message)
        try:
            await self._process.stdin.drain()
        except ConnectionError:
            raise _Gone from None

    async def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            header = await self._process.stdout.readexactly(frames.HEADER)
            return frames.unpack(await self._process.stdout.readexactly(frames.body_size(header)))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            raise _Gone from None
