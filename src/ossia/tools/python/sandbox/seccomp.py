"""System calls that the code may not make: a seccomp filter, written as BPF instructions.

The rest of the sandbox already gives these calls nothing to act on; the filter keeps code away
from parts of the kernel in which most holes were found (namespaces, io_uring, bpf, keys), and from
memory that no limit counts (memfd, System V).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from . import linux

# Number of each call on (x86-64, aarch64): asm/unistd_64.h and asm-generic/unistd.h.
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
CLONE = (56, 220)
CLONE3 = (435, 435)  # its flags lie in memory, where no filter sees them; libc falls back to clone
SOCKETS = ((41, 198), (53, 199))  # socket, socketpair
NEWEST = 456  # what came to Linux after 6.7 is not known here, and refused as unknown

_MACHINES = ("x86_64", "aarch64")
_AUDIT_ARCH = (0xC000003E, 0xC00000B7)
_NEW_NAMESPACES = 0x7E020000  # all CLONE_NEW... that clone() takes
_AF_UNIX = 1

_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97

# linux/bpf_common.h and linux/seccomp.h
_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_GREATER = 0x25
_IF_ANY_BIT = 0x45
_RETURN = 0x06
_KILL = 0x80000000
_ERRNO = 0x00050000
_ALLOW = 0x7FFF0000
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little-endian

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def known(machine: str) -> bool:
    """Whether there is a filter for this machine."""
    return machine in _MACHINES


def program(machine: str) -> Sequence[Instruction]:
    """The filter for "x86_64" or "aarch64"; jumps count instructions from the next one."""
    column = _MACHINES.index(machine)
    out: list[Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, _AUDIT_ARCH[column]),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_IF_GREATER, 0, 1, NEWEST),  # x32 calls too: their numbers have bit 30 set
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_IF_EQUAL, 0, 1, CLONE3[column]),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_IF_EQUAL, 0, 4, CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_IF_ANY_BIT, 0, 1, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for call in SOCKETS:
        out += [
            (_IF_EQUAL, 0, 4, call[column]),
            (_LOAD, 0, 0, _FIRST_ARGUMENT),
            (_IF_EQUAL, 1, 0, _AF_UNIX),
            (_RETURN, 0, 0, _ERRNO | _EAFNOSUPPORT),
            (_RETURN, 0, 0, _ALLOW),
        ]
    for numbers in REFUSED.values():
        number = numbers[column]
        if number is not None:
            out += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    out.append((_RETURN, 0, 0, _ALLOW))
    return out


def install() -> None:
    """Filter this process and all its children, for good.

    Raises:
        OSError: the kernel has no seccomp.
    """
    linux.set_filter(b"".join(struct.pack("=HBBI", *line) for line in program(linux.machine())))
