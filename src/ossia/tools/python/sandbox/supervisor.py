"""Process 1 of a sandbox: runs the driver, passes on what it prints, and ends what goes too far.

The server sends, on the control pipe:

    {"run": code, "seconds": s}   one piece at a time
    {"interrupt": true}           stop what runs

and is sent, on the events pipe:

    {"ready": true}                                              once
    {"output": text}                                             while code runs
    {"done": "ok"|"error"|"timeout"|"interrupted", ...rest}      variables are kept
    {"ended": "exit"|"signal"|"timeout"|"interrupted"|"memory", "detail": ..., ...rest}

where the rest is `left_out` (bytes) and `tail` (text): what follows the output sent so far. After
`ended`, and when the server closes the control pipe or dies, this process ends, and the kernel
kills all others of its pid namespace with it. Between two pieces of code all of them are stopped:
nothing that the code left behind uses the processor, or memory that nobody watches.
"""

from __future__ import annotations

import os
import select
import signal
import time
from dataclasses import dataclass
from typing import Any

from . import frames
from .limits import limit_this_process
from .memory import memory_in_use
from .mounts import WORK_FOLDER
from .output import Output
from .settings import Settings

CONTROL, EVENTS, NOWHERE = 0, 1, 2  # descriptors; the last is /dev/null
_WATCH = 0.1  # seconds between two looks at memory
_AGAIN = 0.5  # seconds until the next SIGINT: os.system() swallows the first
_LONGEST_READ = 1 << 16  # bytes
# All variables that the code sees. Threads of numerical libraries would each take address space.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": WORK_FOLDER,
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

_STATUS = {b"o": "ok", b"e": "error"}  # what the driver answers


@dataclass(slots=True)
class _Call:
    output: Output
    deadline: float  # seconds of time.monotonic()
    stopped_by: str | None = None  # "timeout" or "interrupted"
    interrupt_at: float = 0.0
    kill_at: float = 0.0


class Supervisor:
    """Of one driver, for its whole life."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._call: _Call | None = None
        # A child's end wakes the poll: the number of its signal is written to this pipe.
        self._wake, wake_end = os.pipe()
        os.set_blocking(wake_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # which process 1 never notices
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        request_end, self._requests = os.pipe()
        self._replies, reply_end = os.pipe()
        self._output, output_end = os.pipe()
        os.set_blocking(self._output, False)
        self._driver = _start(settings, request_end, reply_end, output_end)
        for descriptor in (request_end, reply_end, output_end):
            os.close(descriptor)

    def serve(self) -> None:
        """Until the driver ends, or the server goes away."""
        poll = select.poll()
        for descriptor in (CONTROL, self._wake, self._replies, self._output):
            poll.register(descriptor, select.POLLIN)
        while True:
            timeout = None if self._call is None else _WATCH * 1000
            for descriptor, _ in poll.poll(timeout):
                if descriptor == CONTROL:
                    message = frames.read(CONTROL)
                    if message is None:
                        return
                    self._obey(message)
                elif descriptor == self._output:
                    self._read_output(1)
                elif descriptor == self._replies:
                    status = os.read(self._replies, 1)
                    if not status:
                        poll.unregister(descriptor)  # the end of the driver follows
                    self._answer(status)
                else:
                    os.read(self._wake, _LONGEST_READ)
                    if self._reap():
                        return
            if self._call is not None and self._too_far(self._call):
                return

    def _obey(self, message: dict[str, Any]) -> None:
        if "run" in message and self._call is None:
            self._call = _Call(
                output=Output(lambda text: frames.write(EVENTS, {"output": text})),
                deadline=time.monotonic() + message["seconds"],
            )
            code = message["run"].encode("utf-8", "surrogatepass")
            _signal_all(signal.SIGCONT)
            data = memoryview(len(code).to_bytes(frames.HEADER, "big") + code)
            while data:
                data = data[os.write(self._requests, data) :]
        elif "interrupt" in message and self._call is not None:
            self._stop(self._call, "interrupted")

    def _answer(self, status: bytes) -> None:
        if status == b"r":
            _signal_all(signal.SIGSTOP)
            frames.write(EVENTS, {"ready": True})
        elif status in _STATUS and self._call is not None:
            self._read_output(16)  # all that was written before the answer; a pipe holds 64 KB
            _signal_all(signal.SIGSTOP)
            if self._call.stopped_by is None:
                self._tell({"done": _STATUS[status]})
            else:
                self._kill_all_but_driver()
                self._tell({"done": self._call.stopped_by})

    def _kill_all_but_driver(self) -> None:
        """End what late code has started: stopped, it cannot start more meanwhile."""
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) not in (os.getpid(), self._driver):
                os.kill(int(name), signal.SIGKILL)  # until it is reaped, its id is taken

    def _read_output(self, times: int) -> None:
        for _ in range(times):
            try:
                data = os.read(self._output, _LONGEST_READ)
            except BlockingIOError:
                return
            if not data:
                return
            if self._call is not None:
                self._call.output.add(data)

    def _reap(self) -> bool:
        """Forget children that ended; whether the driver is among them."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid != self._driver:
                continue
            self._read_output(16)
            code = os.waitstatus_to_exitcode(status)
            if self._call is not None and self._call.stopped_by is not None:
                self._tell({"ended": self._call.stopped_by})
            elif code < 0:
                self._tell({"ended": "signal", "detail": _signal_name(-code)})
            else:
                self._tell({"ended": "exit", "detail": str(code)})
            return True

    def _too_far(self, call: _Call) -> bool:
        """Interrupt what is late; whether it has to be killed, by ending this process."""
        now = time.monotonic()
        if call.stopped_by is None:
            if now >= call.deadline:
                self._stop(call, "timeout")
        elif now >= call.kill_at:
            self._tell({"ended": call.stopped_by})
            return True
        elif now >= call.interrupt_at:
            self._interrupt(call)
        if memory_in_use(self._settings.memory) > self._settings.memory:
            self._tell({"ended": "memory"})
            return True
        return False

    def _stop(self, call: _Call, why: str) -> None:
        if call.stopped_by is None:
            call.stopped_by = why
            call.kill_at = time.monotonic() + self._settings.grace
            self._interrupt(call)

    def _interrupt(self, call: _Call) -> None:
        call.interrupt_at = time.monotonic() + _AGAIN
        try:
            os.killpg(self._driver, signal.SIGINT)
        except ProcessLookupError:
            return  # it ends by itself

    def _tell(self, event: dict[str, object]) -> None:
        left_out, tail = (0, "") if self._call is None else self._call.output.finish()
        self._call = None
        frames.write(EVENTS, {**event, "left_out": left_out, "tail": tail})


def _signal_all(number: int) -> None:
    try:
        os.kill(-1, number)  # all of this pid namespace but process 1
    except ProcessLookupError:
        return


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _start(settings: Settings, requests: int, replies: int, output: int) -> int:
    """The process that runs the driver. It reads nothing on its standard input."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        os.chdir(WORK_FOLDER)
        # None of the sources is below 5: the pipe of `_wake` came first.
        for source, target in ((NOWHERE, 0), (output, 1), (output, 2), (requests, 3), (replies, 4)):
            os.dup2(source, target)
        os.closerange(5, 1024)
        limit_this_process(settings.memory, settings.file_size)
        # Signals that Python ignores would be ignored by all programs that the code starts.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execve(settings.command[0], list(settings.command), ENVIRONMENT)
    finally:
        os._exit(127)
