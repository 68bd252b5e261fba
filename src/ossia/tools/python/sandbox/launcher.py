"""Makes one sandbox: namespaces, file system, user; then waits for its process 1.

Reads `Settings` from its standard input, which stays the control pipe; its standard output is the
events pipe. What cannot be made is told there: {"failed": step, "error": text}.

A normal user gets all namespaces from a user namespace of its own. Root makes them without one, as
only root can read all folders that are to be shown; then it becomes nobody, in a user namespace
that has no other user. Root that lacks CAP_SYS_ADMIN, as in most containers, becomes nobody first.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import frames, linux, seccomp
from .mounts import build_root
from .settings import Settings, from_message
from .supervisor import EVENTS, NOWHERE, Supervisor

NOBODY = 65534
_ALL_BUT_USER = (
    linux.CLONE_NEWNS
    | linux.CLONE_NEWPID
    | linux.CLONE_NEWNET
    | linux.CLONE_NEWIPC
    | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)


class StepFailed(Exception):
    """The machine refuses a part of the sandbox."""


def main() -> None:
    """Run a session to its end."""
    os.closerange(3, 1024)
    message = frames.read(0)
    if message is None:
        return
    try:
        _launch(from_message(message))
    except StepFailed as error:
        step, reason = error.args
        frames.write(EVENTS, {"failed": step, "error": reason})
        sys.exit(1)


def _launch(settings: Settings) -> None:
    with _step("seccomp"):
        if not seccomp.known(linux.machine()):
            raise OSError(0, f"no filter for {linux.machine()}")
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # where memory ends, the code goes before the server
    os.umask(0o022)
    as_root = os.geteuid() == 0 and linux.has_capability(linux.CAP_SYS_ADMIN)
    if os.geteuid() == 0 and not as_root:
        with _step("user"):
            _become_nobody()
    if as_root:
        with _step("namespaces"):
            linux.unshare(_ALL_BUT_USER)
    else:
        user, group = os.geteuid(), os.getegid()
        with _step("namespaces"):
            linux.set_dumpable(True)  # else /proc/self belongs to root
            linux.unshare(linux.CLONE_NEWUSER | _ALL_BUT_USER)
            _map_user("self", user, group)
    ask, asked = os.pipe()
    answered, answer = os.pipe()
    if os.fork() == 0:
        os.close(ask)
        os.close(answer)
        _inside(settings, as_root, asked, answered)
    else:
        os.close(asked)
        os.close(answered)
        _outside(as_root, ask, answer)


def _inside(settings: Settings, as_root: bool, asked: int, answered: int) -> None:
    """Process 1 of the sandbox."""
    with _step("mounts"):
        build_root(settings.view)
    socket.sethostname("sandbox")
    if as_root:
        with _step("namespaces"):
            os.setgroups([])
            linux.unshare(linux.CLONE_NEWUSER)
            # Only who stands outside of a user namespace may say that its nobody is the real one.
            os.write(asked, b"?")
            if not os.read(answered, 1):
                os._exit(1)  # and has said so
    os.close(asked)
    os.close(answered)
    linux.drop_bounding_capabilities()
    if as_root:
        _set_user_to_nobody()
    _renounce()
    with _step("seccomp"):
        seccomp.install()
    Supervisor(settings).serve()
    os._exit(0)


def _outside(as_root: bool, ask: int, answer: int) -> None:
    """The parent of process 1: it must be there, and does nothing."""
    if as_root and os.read(ask, 1):
        # In the file system of the sandbox already, where the child is process 1.
        with _step("namespaces"):
            _map_user("1", NOBODY, NOBODY)
        os.write(answer, b"!")
    linux.drop_bounding_capabilities()
    if as_root:
        _become_nobody()
    _renounce()
    os.dup2(NOWHERE, 0)  # or the end of the server's pipe would not be seen
    os.dup2(NOWHERE, 1)
    os.closerange(3, 1024)
    os.wait()


def _become_nobody() -> None:
    os.setgroups([])
    _set_user_to_nobody()


def _set_user_to_nobody() -> None:
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _map_user(process: str, user: int, group: int) -> None:
    """The namespace has one user, nobody, who outside is `user`."""
    for name, text in (
        ("setgroups", "deny"),
        ("gid_map", f"{NOBODY} {group} 1"),
        ("uid_map", f"{NOBODY} {user} 1"),
    ):
        with open(f"/proc/{process}/{name}", "w") as file:
            file.write(text)


def _renounce() -> None:
    linux.drop_capabilities()
    linux.set_dumpable(False)
    linux.die_with_parent()


@contextmanager
def _step(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.filename:
            reason = f"{error.filename}: {reason}"
        raise StepFailed(name, reason) from None
