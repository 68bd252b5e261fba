"""Compiles CUDA C++ to machine code by NVRTC, and keeps the results on disk.

    code = compile_cuda(source, architecture="sm_90a", defines={"TOKENS": 8})

NVRTC is a library that comes with torch's own dependencies, so no CUDA toolkit is needed. It is
called through ctypes. A result is stored under a hash of everything that it depends on (source,
options, NVRTC's version), so a server that starts a second time compiles nothing.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ossia.checkpoint.demo import cache_directory
from ossia.errors import StartupError

# Where torch's dependencies have the library, below the package `nvidia`.
_PACKAGE_FOLDERS = ("cu13/lib", "cuda_nvrtc/lib", "cu12/lib")
_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12")
_TOOLKITS = ("CUDA_HOME", "CUDA_PATH")
_DEFAULT_TOOLKIT = "/usr/local/cuda"
_LOG_TAIL = 2000  # characters of the compiler's messages that an error shows


class CudaCompileError(StartupError):
    """A kernel does not compile here, or there is no NVRTC to compile it."""


def compile_cuda(
    source: str,
    *,
    architecture: str,
    defines: Mapping[str, int | str] | None = None,
    name: str = "kernel.cu",
    cache: Path | None = None,
) -> bytes:
    """The machine code (a cubin) of CUDA C++ without includes.

    Args:
        source: the text; functions to be launched are `extern "C"`.
        architecture: such as "sm_90a".
        defines: preprocessor macros.
        name: what messages call the source.
        cache: folder of the stored results; `kernels` in Ossia's cache folder if left out. A
            folder that cannot be written is no error: then nothing is kept.

    Raises:
        CudaCompileError: there is no NVRTC, or it refuses; the compiler's messages are in it.
    """
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"-D{key}={value}" for key, value in sorted((defines or {}).items())]
    nvrtc = _nvrtc()
    folder = cache_directory() / "kernels" if cache is None else cache
    stored = folder / f"{_key(source, options, nvrtc.version)}.cubin"
    try:
        return stored.read_bytes()
    except OSError:
        pass  # not compiled yet
    code = nvrtc.compile(source, name, options)
    _store(stored, code)
    return code


def nvrtc_version() -> tuple[int, int]:
    """Major and minor version of the compiler.

    Raises:
        CudaCompileError: there is none.
    """
    return _nvrtc().version


def _key(source: str, options: list[str], version: tuple[int, int]) -> str:
    parts = (*map(str, version), *options, source)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _store(path: Path, code: bytes) -> None:
    """Write a file that other processes see whole or not at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = tempfile.mkstemp(prefix=path.stem, suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code)
            os.replace(unfinished, path)
        except BaseException:
            os.unlink(unfinished)
            raise
    except OSError:
        return  # a read-only or full disk costs time at the next start, not this one


class _Nvrtc:
    """The few functions of NVRTC that are needed; see NVIDIA's NVRTC manual."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
        self.version = (major.value, minor.value)

    def compile(self, source: str, name: str, options: list[str]) -> bytes:
        library = self._library
        program = ctypes.c_void_p()
        self._check(
            library.nvrtcCreateProgram(
                ctypes.byref(program), source.encode(), name.encode(), 0, None, None
            ),
            "nvrtcCreateProgram",
        )
        try:
            values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            if library.nvrtcCompileProgram(program, len(options), values) != 0:
                log = self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise CudaCompileError(
                    f"{name} does not compile with NVRTC {self.version[0]}.{self.version[1]} "
                    f"({' '.join(options)}):\n{log[-_LOG_TAIL:]}"
                )
            return self._read(program, "CUBIN")
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        get_size = getattr(self._library, f"nvrtcGet{what}Size")
        self._check(get_size(program, ctypes.byref(size)), f"nvrtcGet{what}Size")
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer), f"nvrtcGet{what}")
        return buffer.raw

    def _check(self, result: int, function: str) -> None:
        if result != 0:
            text = self._library.nvrtcGetErrorString(result).decode()
            raise CudaCompileError(f"{function} of the CUDA compiler failed: {text}.")


@functools.cache
def _nvrtc() -> _Nvrtc:
    problems = []
    for candidate in _candidates():
        try:
            _load_builtins(Path(candidate).parent)
            return _Nvrtc(ctypes.CDLL(candidate))
        except (OSError, AttributeError) as error:
            problems.append(str(error))
    raise CudaCompileError(
        "There is no NVRTC (libnvrtc.so.13 or .12) to compile kernels: install torch for CUDA "
        f"from PyPI, or a CUDA toolkit. Tried: {'; '.join(problems)}."
    )


def _load_builtins(folder: Path) -> None:
    """Load the library that NVRTC opens by name while it compiles.

    It looks along the loader's path, where the folders of Python packages are not; what is already
    loaded under that name, it finds.
    """
    for path in sorted(folder.glob("libnvrtc-builtins.so*")) if folder.is_absolute() else ():
        ctypes.CDLL(str(path))


def _candidates() -> Iterator[str]:
    """Paths and names for the loader, the best first."""
    package = importlib.util.find_spec("nvidia")
    roots = list(package.submodule_search_locations or ()) if package else []
    for root in roots:
        for folder in _PACKAGE_FOLDERS:
            for name in _NAMES:
                path = Path(root, folder, name)
                if path.is_file():
                    yield str(path)
    yield from _NAMES
    found = ctypes.util.find_library("nvrtc")
    if found:
        yield found
    toolkits = [os.environ[name] for name in _TOOLKITS if os.environ.get(name)]
    for toolkit in (*toolkits, _DEFAULT_TOOLKIT):
        path = Path(toolkit, "lib64", "libnvrtc.so")
        if path.is_file():
            yield str(path)
