"""Finds, loads and opens the native CPU library.

    context = open_context()          # the best level of instructions, a thread a core
    context = open_context(level="avx2", threads=4)

The library is one file beside this one, built when Ossia is installed where a C++ compiler exists.
It knows nothing of torch or Python, so one build serves every version of both. The environment
variable OSSIA_CPU_LEVEL forces a level, OSSIA_CPU_THREADS the number of threads.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

from ossia.errors import StartupError

LEVEL_VARIABLE = "OSSIA_CPU_LEVEL"
THREADS_VARIABLE = "OSSIA_CPU_THREADS"
LIBRARY_VARIABLE = "OSSIA_CPU_LIBRARY"
ABI = 1  # OSSIA_ABI in ossia_cpu.h
_FILE_NAMES = ("_cpu.so", "_cpu.dylib")


class NativeUnavailable(StartupError):
    """There is no library, or it does not fit; the message says what that costs."""


class Matrix(ctypes.Structure):
    """`ossia_matrix` of ossia_cpu.h."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("count", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("values", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
    )


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Context:
    """A level of instructions and a pool of threads; every operation takes one.

    Operations of one context run one after the other, whoever calls them. The threads end when
    the context is no longer referenced.
    """

    library: ctypes.CDLL
    handle: int  # ossia_context *
    level: str
    threads: int


@dataclass(frozen=True, slots=True)
class NativeStatus:
    """What `ossia doctor` and the start of the engine say about the library."""

    available: bool
    levels: tuple[str, ...]  # that this processor runs, best first
    sentence: str


def open_context(
    level: str | None = None, threads: int | None = None, path: Path | None = None
) -> Context:
    """Start the threads.

    Args:
        level: one of `status().levels`; OSSIA_CPU_LEVEL or the best if left out.
        threads: how many compute, the caller's included; OSSIA_CPU_THREADS or `default_threads()`
            if left out.
        path: of another library file.

    Raises:
        NativeUnavailable: there is no library, or not this level.
    """
    library = load(path)
    wanted = level or os.environ.get(LEVEL_VARIABLE) or ""
    handle = library.ossia_open(wanted.encode(), threads or _threads_from_environment())
    if not handle:
        levels = library.ossia_levels().decode()
        raise NativeUnavailable(
            f"The CPU library has no level {wanted!r} on this processor; it has {levels}."
        )
    context = Context(
        library, handle, library.ossia_level(handle).decode(), library.ossia_threads(handle)
    )
    weakref.finalize(context, library.ossia_close, handle)
    return context


def status(path: Path | None = None) -> NativeStatus:
    """Whether there is a library, and what it can do here; never raises."""
    try:
        library = load(path)
    except NativeUnavailable as error:
        return NativeStatus(False, (), error.message)
    levels = tuple(library.ossia_levels().decode().split(","))
    return NativeStatus(True, levels, f"native CPU kernels, {levels[0]}")


def load(path: Path | None = None) -> ctypes.CDLL:
    """The library with its functions declared.

    Raises:
        NativeUnavailable: it was not built, does not load, or is of another version.
    """
    file = path or library_file()
    if file is None:
        raise NativeUnavailable(
            "The native CPU kernels were not built, so models run on torch alone, several times "
            "slower: install a C++ compiler (on Debian and Ubuntu: apt install g++) and install "
            "Ossia again."
        )
    try:
        library = ctypes.CDLL(str(file))
        found = int(library.ossia_abi())
    except (OSError, AttributeError) as error:
        raise NativeUnavailable(
            f"The native CPU kernels do not load, so models run on torch alone, several times "
            f"slower: {error}. Installing Ossia again builds them anew."
        ) from error
    if found != ABI:
        raise NativeUnavailable(
            f"The native CPU kernels in {file} are of version {found}, this Ossia needs {ABI}; "
            "models run on torch alone, several times slower. Install Ossia again to build them."
        )
    from ossia.kernels.native.blocks import declare_blocks  # which needs the types of this file

    try:
        _declare(library)
        declare_blocks(library)
    except AttributeError as error:
        raise NativeUnavailable(
            f"The native CPU kernels in {file} are older than this Ossia, so models run on torch "
            f"alone, several times slower: {error}. Install Ossia again to build them."
        ) from error
    return library


def library_file() -> Path | None:
    """Where the built library is, if it is; OSSIA_CPU_LIBRARY names another."""
    named = os.environ.get(LIBRARY_VARIABLE)
    if named:
        return Path(named)
    for name in _FILE_NAMES:
        file = Path(__file__).with_name(name)
        if file.is_file():
            return file
    return None


def default_threads() -> int:
    """The physical cores that this process may use, within the limit of its container.

    Two threads on one core share its vector units and its path to memory: a second one gains
    nothing here and makes the slowest piece slower.
    """
    usable = _usable_processors()
    cores = {_core_of(number) for number in usable}
    return max(1, min(len(cores), _container_limit() or len(cores)))


def _container_limit(file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """How many processors' time a container has (cgroup v2), rounded up; None for no limit."""
    try:
        quota, period = file.read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _threads_from_environment() -> int:
    text = os.environ.get(THREADS_VARIABLE, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default_threads()


def _usable_processors() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _core_of(processor: int) -> str:
    """A name that processors on the same core share."""
    topology = Path(f"/sys/devices/system/cpu/cpu{processor}/topology/thread_siblings_list")
    try:
        return topology.read_text().strip()
    except OSError:
        return str(processor)


def _declare(library: ctypes.CDLL) -> None:
    """Types of the functions in ossia_cpu.h that belong to matrices and contexts."""
    pointer, number, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    matrix = ctypes.POINTER(Matrix)
    signatures: dict[str, tuple[object, tuple[object, ...]]] = {
        "ossia_levels": (ctypes.c_char_p, ()),
        "ossia_open": (pointer, (ctypes.c_char_p, ctypes.c_int)),
        "ossia_close": (None, (pointer,)),
        "ossia_level": (ctypes.c_char_p, (pointer,)),
        "ossia_threads": (ctypes.c_int, (pointer,)),
        "ossia_value_bytes": (number, (number, number, number)),
        "ossia_scale_bytes": (number, (number, number, number)),
        "ossia_advise_huge": (ctypes.c_int, (pointer, number)),
        "ossia_pack_mxfp4": (
            ctypes.c_int,
            (pointer, pointer, pointer, number, number, pointer, pointer),
        ),
        "ossia_pack_int8": (ctypes.c_int, (pointer, pointer, number, number, pointer, pointer)),
        "ossia_pack_bf16": (ctypes.c_int, (pointer, pointer, number, number, pointer)),
        "ossia_linear": (ctypes.c_int, (pointer, pointer, number, matrix, pointer, pointer)),
        "ossia_linear_top": (
            ctypes.c_int,
            (pointer, pointer, number, matrix, number, pointer, pointer),
        ),
        "ossia_moe": (
            ctypes.c_int,
            (
                *(pointer, pointer, number, pointer, pointer, number),
                *(matrix, matrix, real, real, pointer, pointer),
            ),
        ),
        "ossia_read": (ctypes.c_uint64, (pointer, pointer, number)),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
