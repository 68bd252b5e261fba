"""One run of the engine process, seen from its parent: the process, its sockets, its start.

The parent binds two sockets in a private folder and starts `python -m ossia.engine.process`.
The configuration goes through the child's standard input, which then stays open: its end tells
the child that the parent is gone, however the parent ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, cast

import msgspec
import zmq
import zmq.asyncio

from ossia.config import EngineConfig
from ossia.engine.launch import Launch
from ossia.engine.messages import (
    EngineInfo,
    FromEngine,
    Progress,
    Ready,
    Shutdown,
    StartupFailed,
    ToEngine,
)
from ossia.errors import StartupError

# OpenMP threads sleep at once when they wait. By default they spin, and with this process and its
# clients on the same few cores the spinning threads keep off those that they wait for.
ENGINE_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
STOP_SECONDS = 1.0  # given to the child between the request to stop and SIGKILL


@dataclass(frozen=True, slots=True)
class _Sockets:
    folder: str | None  # private folder of the ipc files; None over tcp
    commands: zmq.Socket[bytes]  # PUSH; sends never block
    results: zmq.asyncio.Socket  # PULL
    commands_endpoint: str
    results_endpoint: str


class EngineChild:
    """A started engine process. Use `spawn`, then `ready`, then `send` and `messages`."""

    def __init__(self, process: Process, sockets: _Sockets, context: zmq.asyncio.Context) -> None:
        self._process = process
        self._sockets = sockets
        self._context = context
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._encoder = msgspec.msgpack.Encoder()
        self._exited = asyncio.create_task(process.wait())

    @classmethod
    async def spawn(cls, config: EngineConfig, *, prepare_grammars: bool = False) -> EngineChild:
        """Start the process; it begins to load the model at once.

        With `prepare_grammars` it gets ready for constraints right after that.
        """
        context = zmq.asyncio.Context()
        sockets = _bind(context)
        try:
            process = await asyncio.create_subprocess_exec(
                # -P: a file in the user's folder must not shadow a module.
                *(sys.executable, "-P", "-m", "ossia.engine.process"),
                stdin=asyncio.subprocess.PIPE,
                stdout=sys.__stderr__,
                env=ENGINE_ENVIRONMENT | os.environ,
                # Its own session, so that Ctrl-C reaches the parent alone.
                start_new_session=True,
            )
        except BaseException as error:
            _unbind(sockets, context)
            if isinstance(error, OSError):
                raise StartupError(f"The engine process cannot be started: {error}.") from error
            raise
        child = cls(process, sockets, context)
        launch = Launch(
            config,
            sockets.commands_endpoint,
            sockets.results_endpoint,
            os.getpid(),
            prepare_grammars,
        )
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(launch) + b"\n")
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self, on_progress: Callable[[str], None]) -> EngineInfo:
        """Wait until the model is loaded and tested, reporting the lines of the child.

        Raises:
            StartupError: the engine refused its configuration, or died.
        """
        async for message in self.messages():
            match message:
                case Progress(text):
                    on_progress(text)
                case Ready(info):
                    # Both sides are connected: the files have served, none is left behind later.
                    _remove_folder(self._sockets)
                    return info
                case StartupFailed(sentence):
                    raise StartupError(sentence)
                case _:
                    pass
        raise StartupError(
            f"The engine process {self.ending} during start-up; "
            "if the machine ran out of memory, use a smaller --max-model-len or --max-num-seqs."
        )

    def send(self, message: ToEngine) -> bool:
        """Queue a message without waiting; False if the process is gone."""
        if self._exited.done() or self._sockets.commands.closed:
            return False
        try:
            self._sockets.commands.send(self._encoder.encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    async def messages(self) -> AsyncIterator[FromEngine]:
        """Messages until the process has ended and all it had sent is read."""
        results = self._sockets.results
        while True:
            received = cast("asyncio.Future[bytes]", results.recv())
            if not received.done() and not self._exited.done():
                either: tuple[asyncio.Future[Any], ...] = (received, self._exited)
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not received.done():
                # Exited; what it sent last may still be between the two sockets.
                await asyncio.wait({received}, timeout=0.1)
            if not received.done():
                received.cancel()
                return
            yield self._decoder.decode(received.result())

    @property
    def ending(self) -> str:
        """How the process ended, as the end of a sentence that starts with "The engine process"."""
        code = self._process.returncode
        if code is None:
            return "stopped answering"
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-code).name}"
        return f"was killed by signal {-code}"

    async def stop(self) -> None:
        """End the process, kindly and then not, and remove every trace. May be called twice."""
        if not self._exited.done():
            self.send(Shutdown())
            await asyncio.wait({self._exited}, timeout=STOP_SECONDS)
        if not self._exited.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._exited
        if self._process.stdin is not None:
            self._process.stdin.close()
        _unbind(self._sockets, self._context)


def _bind(context: zmq.asyncio.Context) -> _Sockets:
    # PUSH blocks or drops at the high-water mark; 0 means there is none.
    commands = zmq.Socket(context, zmq.PUSH)
    results = context.socket(zmq.PULL)
    for socket in (commands, results):
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.LINGER, 0)
    if not zmq.has("ipc"):
        for socket in (commands, results):
            socket.bind_to_random_port("tcp://127.0.0.1")
        last = zmq.LAST_ENDPOINT
        return _Sockets(
            None,
            commands,
            results,
            commands.getsockopt_string(last),
            results.getsockopt_string(last),
        )
    folder = tempfile.mkdtemp(prefix="ossia-")  # mode 0700
    if len(folder) > 80:  # a socket's path has at most 103 to 107 bytes
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="ossia-", dir="/tmp")
    endpoints = f"ipc://{folder}/commands", f"ipc://{folder}/results"
    commands.bind(endpoints[0])
    results.bind(endpoints[1])
    return _Sockets(folder, commands, results, *endpoints)


def _unbind(sockets: _Sockets, context: zmq.asyncio.Context) -> None:
    sockets.commands.close(linger=0)
    sockets.results.close(linger=0)
    context.term()
    _remove_folder(sockets)


def _remove_folder(sockets: _Sockets) -> None:
    if sockets.folder is not None:
        shutil.rmtree(sockets.folder, ignore_errors=True)
