"""Runs inside the sandbox: executes pieces of code in one namespace, as a notebook does.

Started as `python -I -S -X utf8 driver.py <packages>`, with requests on descriptor 3 (four bytes of
length, then the code) and answers on descriptor 4 (one byte). What the code prints goes to
descriptor 1, so printing cannot break this protocol.
"""

from __future__ import annotations

import ast
import builtins
import gc
import io
import linecache
import os
import resource
import signal
import sys
import traceback
import types
from typing import Any

_REQUESTS, _REPLIES = 3, 4
_READY, _OK, _ERROR = b"r", b"o", b"e"
_FRAMES = 12  # of a traceback that are shown
_CELL = "<cell "  # what the names of pieces of code start with


class Notebook:
    """The namespace, and how code runs in it."""

    def __init__(self) -> None:
        self.module = types.ModuleType("__main__")
        self.process = os.getpid()
        self.cells = 0
        self.running = False
        sys.modules["__main__"] = self.module
        vars(self.module)["__builtins__"] = builtins
        vars(builtins).update(exit=sys.exit, quit=sys.exit)

    def interrupt(self, *_: object) -> None:
        """Once for each piece of code, and never in between."""
        if self.running:
            self.running = False
            raise KeyboardInterrupt

    def run(self, code: str) -> bytes:
        """Execute a piece; what it prints, its last value and its traceback go to `sys.stdout`."""
        self.cells += 1
        name = f"{_CELL}{self.cells}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        signal.signal(signal.SIGINT, self.interrupt)
        try:
            try:
                self.running = True
                _execute(code, name, vars(self.module))
            finally:
                self.running = False
        except SystemExit as error:
            _end(error)
        except BaseException as error:
            _allow_all_memory()
            _show(error)
            return _ERROR
        return _OK


def main() -> None:
    """Serve requests until there are no more."""
    sys.path.append(sys.argv[1])
    sys.argv = [""]
    out = _open_output()
    for descriptor in (_REQUESTS, _REPLIES):
        os.set_inheritable(descriptor, False)
    notebook = Notebook()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    os.write(_REPLIES, _READY)
    while (code := _read_request()) is not None:
        if out.closed:
            out = _open_output()
        sys.stdout = sys.stderr = out
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        status = notebook.run(code)
        _allow_all_memory()
        if os.getpid() != notebook.process:  # the code has forked, and the child comes back here
            _flush()
            os._exit(0)
        _flush()
        if status == _ERROR:
            gc.collect()  # what the frames of the traceback held
        os.write(_REPLIES, status)


def _execute(code: str, name: str, variables: dict[str, Any]) -> None:
    body = ast.parse(code, name).body
    last = [body.pop()] if body and isinstance(body[-1], ast.Expr) else []
    module = ast.Module(body=body, type_ignores=[])
    exec(compile(module, name, "exec", dont_inherit=True), variables)
    # Mode "single" gives the value to sys.displayhook, which prints it.
    exec(compile(ast.Interactive(body=last), name, "single", dont_inherit=True), variables)


def _show(error: BaseException) -> None:
    """Print a traceback, without what is ours and without most of a long one."""
    try:
        shown = traceback.TracebackException.from_exception(error)
        _tidy(shown)
        text = "".join(shown.format())
    except BaseException:
        text = f"{type(error).__name__}\n"
    finally:
        error.__traceback__ = None
    try:
        sys.stderr.write(text)
    except Exception:
        os.write(1, text.encode("utf-8", "backslashreplace"))


def _tidy(shown: traceback.TracebackException) -> None:
    cells = (n for n, at in enumerate(shown.stack) if at.filename.startswith(_CELL))
    # A syntax error has no frame of the user's code at all.
    del shown.stack[: next(cells, len(shown.stack))]
    one: traceback.TracebackException | None = shown
    while one is not None:
        stack = [at for at in one.stack if at.filename != __file__]
        one.stack[:] = stack if len(stack) <= _FRAMES else stack[:2] + stack[2 - _FRAMES :]
        one = one.__cause__ or one.__context__


def _end(error: SystemExit) -> None:
    """The code asked to end its process."""
    code = error.code
    if code is not None and not isinstance(code, int):
        print(code)
    _flush()
    os._exit(0 if code is None else code & 0xFF if isinstance(code, int) else 1)


def _allow_all_memory() -> None:
    """There is a little left for the report when the code has used all that it may."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


def _open_output() -> io.TextIOWrapper:
    # One stream for both, so that their order is kept.
    return open(1, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            continue  # the code has closed or replaced it


def _read_request() -> str | None:
    header = _read(4)
    if len(header) < 4:
        return None
    return _read(int.from_bytes(header, "big")).decode("utf-8", "replace")


def _read(count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := os.read(_REQUESTS, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


if __name__ == "__main__":
    main()
