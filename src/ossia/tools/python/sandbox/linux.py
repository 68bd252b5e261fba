"""The system calls that Python 3.11 has no function for. Linux, x86-64 and aarch64."""

from __future__ import annotations

import ctypes
import os
from functools import cache

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18

CAP_SYS_ADMIN = 21

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_SECCOMP = 22
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2

_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442  # the same everywhere

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
_MNT_DETACH = 2


def unshare(flags: int) -> None:
    """New namespaces (`CLONE_NEW...`) for this process; a new pid namespace is for its children."""
    _check(_libc().unshare(flags))


def mount(kind: str, target: str, flags: int = 0, options: str = "") -> None:
    """Mount a file system of a kind ("tmpfs", "proc"), or change what is mounted (kind "")."""
    name = kind.encode()
    _check(_libc().mount(name, target.encode(), name, ctypes.c_ulong(flags), options.encode()))


def unmount(target: str) -> None:
    """Undo a mount at once, whoever uses it."""
    _check(_libc().umount2(target.encode(), _MNT_DETACH))


def copy_of_tree(path: str, flags: int) -> int:
    """A descriptor of a mount of `path` and all below, which `attach` makes visible somewhere.

    `flags` of `MS_RDONLY`, `MS_NOSUID`, `MS_NODEV` and `MS_NOEXEC` hold for all of it.
    """
    tree = _call(
        _OPEN_TREE,
        _AT_FDCWD,
        os.fsencode(path),
        _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC,
    )
    # struct mount_attr: attr_set (the four flags have the same bits), attr_clr, propagation, userns
    wanted = (ctypes.c_uint64 * 4)(flags, 0, MS_PRIVATE, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    _call(_MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, size)
    return tree


def attach(tree: int, target: str) -> None:
    """Show a tree at `target`, a folder or file of the same kind, and close its descriptor."""
    _call(_MOVE_MOUNT, tree, b"", _AT_FDCWD, target.encode(), _MOVE_MOUNT_F_EMPTY_PATH)
    os.close(tree)


def make_root(path: str) -> None:
    """The mount at `path` becomes `/`; the old one is gone for the whole mount namespace."""
    os.chdir(path)
    _call(_PIVOT_ROOT[machine()], b".", b".")  # the old root now lies on top of the new one
    _check(_libc().umount2(b".", _MNT_DETACH))
    os.chdir("/")


def has_capability(number: int) -> bool:
    """Whether this process has a capability in effect."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> number & 1)
    return False


def drop_bounding_capabilities() -> None:
    """No program that is run can have a capability; needs CAP_SETPCAP, else nothing happens."""
    number = 0
    while _libc().prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1  # up to the first that this kernel does not know


def drop_capabilities() -> None:
    """None is left, and no program that is run brings any."""
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _call(_CAPSET[machine()], header, nothing)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """SIGKILL when the parent's thread ends. A change of user undoes it: call it after."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def set_dumpable(dumpable: bool) -> None:
    """Whether others of this user may look into the process through /proc."""
    _prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_filter(program: bytes) -> None:
    """Filter all system calls to come: `program` is an array of struct sock_filter."""

    class Program(ctypes.Structure):  # struct sock_fprog
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    wanted = Program(len(program) // 8, program)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(wanted))


def machine() -> str:
    """ "x86_64", "aarch64", or another."""
    return os.uname().machine


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    wide = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _check(_libc().syscall(ctypes.c_long(number), *wide))


def _prctl(option: int, *arguments: object) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    wide = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in padded]
    _check(_libc().prctl(option, *wide))


def _check(result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
