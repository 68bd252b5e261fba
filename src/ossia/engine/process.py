"""The engine process: `python -m ossia.engine.process`, started and fed by `engine/child.py`.

It drains its commands between two steps, sleeps in the socket when there is nothing to do, and
ends when it is told to, at SIGTERM, or when its parent is gone.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import threading
import traceback
from types import FrameType
from typing import TYPE_CHECKING

import msgspec
import zmq
from setproctitle import setproctitle

from ossia.engine.cuda_context import begin_cuda_context
from ossia.engine.launch import Launch
from ossia.engine.messages import (
    Abort,
    FromEngine,
    Generate,
    Progress,
    Ready,
    ResetPrefixCache,
    Shutdown,
    StartupFailed,
    StepOutput,
    ToEngine,
)
from ossia.errors import StartupError

if TYPE_CHECKING:
    from ossia.engine.core import EngineCore

TITLE = "ossia-engine"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
LAST_WORDS_MS = 1000  # for messages still in the socket when the process ends


class Wire:
    """The two sockets, with messages instead of bytes."""

    def __init__(self, launch: Launch) -> None:
        self._context = zmq.Context()
        self._commands = self._context.socket(zmq.PULL)
        self._results = self._context.socket(zmq.PUSH)
        for socket in (self._commands, self._results):
            socket.setsockopt(zmq.SNDHWM, 0)  # sending never waits for a slow reader
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.LINGER, LAST_WORDS_MS)
        self._commands.connect(launch.commands)
        self._results.connect(launch.results)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)

    def send(self, message: FromEngine) -> None:
        self._results.send(self._encoder.encode(message))

    def receive(self, *, wait: bool) -> list[ToEngine]:
        """All messages that are there; with `wait`, at least one."""
        messages: list[ToEngine] = []
        if wait:
            messages.append(self._decoder.decode(self._commands.recv()))
        with contextlib.suppress(zmq.Again):
            while True:
                messages.append(self._decoder.decode(self._commands.recv(zmq.NOBLOCK)))
        return messages

    def close(self) -> None:
        self._commands.close()
        self._results.close()
        self._context.term()


def main() -> int:
    """Run until told to stop; the exit code is 1 if the engine could not start."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    signal.signal(signal.SIGTERM, _exit)
    setproctitle(TITLE)
    line = sys.stdin.buffer.readline()
    if not line:
        return 0  # the parent died first
    launch = msgspec.json.decode(line, type=Launch)
    _end_with_parent(launch.parent_pid)
    wire = Wire(launch)
    try:
        core = _start(launch, wire)
        if core is None:
            return 1
        run(core, wire)
    finally:
        wire.close()
    return 0


def run(core: EngineCore, wire: Wire) -> None:
    """Step while there is work, until Shutdown."""
    sent = core.stats
    while True:
        idle = not core.has_work
        for message in wire.receive(wait=idle and not core.prepare_ahead()):
            match message:
                case Generate():
                    core.add(message)
                case Abort(request_ids):
                    core.abort(request_ids)
                case ResetPrefixCache():
                    core.reset_prefix_cache()
                case Shutdown():
                    return
        if core.has_work:
            output = core.step()
            if output.chunks or output.stats != sent:
                wire.send(output)
                sent = output.stats
        elif core.stats != sent:
            # An abort emptied the engine: no step will tell, and the gauges must fall.
            sent = core.stats
            wire.send(StepOutput([], sent))


def _start(launch: Launch, wire: Wire) -> EngineCore | None:
    wire.send(Progress("Starting the engine."))
    try:
        if launch.config.device != "cpu":
            begin_cuda_context()
        # Imports torch: only after the parent had a sign of life.
        from ossia.engine.start import start_engine

        core = start_engine(launch.config, lambda text: wire.send(Progress(text)))
        gc.freeze()  # what was loaded stays: collections need not look at it again
    except StartupError as error:
        wire.send(StartupFailed(error.message))
        return None
    except Exception as error:
        if os.environ.get("OSSIA_DEBUG"):
            traceback.print_exc()
        wire.send(
            StartupFailed(
                f"The engine cannot start, by a fault of Ossia: {type(error).__name__}: {error}. "
                "Set OSSIA_DEBUG=1 to see where, and please report it."
            )
        )
        return None
    wire.send(Ready(core.info))
    if launch.prepare_grammars:
        # Not beside the loading: it holds the interpreter's lock, so the start would take longer.
        core.prepare_grammars()
    return core


def _exit(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _end_with_parent(parent_pid: int) -> None:
    """Make sure that this process does not outlive its parent, however that one ends."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.name == "posix" and os.getppid() != parent_pid:
        os._exit(0)  # it died before we watched
    threading.Thread(target=_await_parent, name="parent-watch", daemon=True).start()


def _await_parent() -> None:
    # The parent holds the other end of standard input open as long as it lives.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
