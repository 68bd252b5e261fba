"""The filter, executed as the kernel would, for both machines that it knows."""

from __future__ import annotations

import pytest

from ossia.tools.python.sandbox import seccomp

ALLOW, KILL = 0x7FFF0000, 0x80000000
EPERM, ENOSYS, NO_FAMILY = 0x50001, 0x50026, 0x50061
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = pytest.mark.parametrize("machine", ["x86_64", "aarch64"])


def decide(machine: str, number: int, argument: int = 0, arch: int | None = None) -> int:
    """What the filter says: a BPF interpreter for the instructions that it uses."""
    data = {0: number, 4: ARCH[machine] if arch is None else arch, 16: argument}
    code = seccomp.program(machine)
    at = value = 0
    while True:
        operation, if_true, if_false, constant = code[at]
        at += 1
        match operation:
            case 0x20:
                value = data[constant]
            case 0x06:
                return constant
            case 0x15 | 0x25 | 0x45:
                holds = {0x15: value == constant, 0x25: value > constant, 0x45: value & constant}
                at += if_true if holds[operation] else if_false
            case _:
                raise AssertionError(operation)


@MACHINES
def test_ordinary_calls_are_allowed(machine: str) -> None:
    column = list(ARCH).index(machine)
    ordinary = {"read": (0, 63), "openat": (257, 56), "futex": (202, 98), "execve": (59, 221)}
    assert all(decide(machine, numbers[column]) == ALLOW for numbers in ordinary.values())


@MACHINES
def test_every_call_of_the_table_is_refused(machine: str) -> None:
    column = list(ARCH).index(machine)
    for name, numbers in seccomp.REFUSED.items():
        number = numbers[column]
        assert number is None or decide(machine, number) == EPERM, name


@MACHINES
def test_threads_and_forks_are_allowed_and_namespaces_are_not(machine: str) -> None:
    clone = seccomp.CLONE[list(ARCH).index(machine)]
    assert decide(machine, clone, 17) == ALLOW  # SIGCHLD: fork()
    assert decide(machine, clone, 0x3D0F00) == ALLOW  # pthread_create()
    for bit in (0x20000, *(1 << n for n in range(25, 31))):
        assert decide(machine, clone, bit | 17) == EPERM
    assert decide(machine, 435) == ENOSYS


@MACHINES
def test_only_local_sockets_are_allowed(machine: str) -> None:
    column = list(ARCH).index(machine)
    for call in seccomp.SOCKETS:
        assert decide(machine, call[column], 1) == ALLOW
        assert {decide(machine, call[column], family) for family in (0, 2, 10, 16, 17, 40)} == {
            NO_FAMILY
        }


@MACHINES
def test_unknown_calls_and_other_machines_are_refused(machine: str) -> None:
    assert decide(machine, seccomp.NEWEST) == ALLOW
    assert decide(machine, seccomp.NEWEST + 1) == ENOSYS
    assert decide(machine, 0x40000000) == ENOSYS  # x32
    assert decide(machine, 0, arch=0x40000003) == KILL  # i386


def test_no_jump_leaves_the_program() -> None:
    for machine in ARCH:
        code = seccomp.program(machine)
        assert len(code) < 4096
        for at, (_, if_true, if_false, _) in enumerate(code):
            assert max(if_true, if_false) < 256
            assert at + 1 + max(if_true, if_false) < len(code) or (if_true, if_false) == (0, 0)
