"""Loads machine code into the CUDA driver, and launches its kernels on torch's current stream.

    module = CudaModule(code)
    add = module.kernel("add", "PPPi", block=256)
    add((blocks,), x.data_ptr(), y.data_ptr(), out.data_ptr(), x.numel())

A launch fills a prepared buffer with the arguments and calls the driver once, through ctypes: a few
microseconds, and it may be captured in a CUDA graph. Load before capturing: loading is no stream
operation. One thread at a time may launch a given kernel.
"""

from __future__ import annotations

import ctypes
import functools
import struct

import torch

from ossia.errors import OssiaError, StartupError

# From cuda.h.
_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CUfunction_attribute
_PROGRAMMATIC_STREAM_SERIALIZATION = 6  # CUlaunchAttributeID
_DEFAULT_SHARED_BYTES = 48 * 1024  # a block gets more only when asked for


class CudaDriverError(OssiaError):
    """A call of the CUDA driver failed; the message names the call and the driver's reason."""


class _LaunchAttribute(ctypes.Structure):
    """CUlaunchAttribute: a number, and a union of 64 bytes aligned to 8."""

    _fields_ = (
        ("id", ctypes.c_uint),
        ("pad", ctypes.c_uint),
        ("value", ctypes.c_int),
        ("rest", ctypes.c_byte * 60),
    )


class _LaunchConfig(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid_x", ctypes.c_uint),
        ("grid_y", ctypes.c_uint),
        ("grid_z", ctypes.c_uint),
        ("block_x", ctypes.c_uint),
        ("block_y", ctypes.c_uint),
        ("block_z", ctypes.c_uint),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("num_attributes", ctypes.c_uint),
    )


class CudaModule:
    """One compiled source on one device; it stays loaded for the life of the process."""

    def __init__(self, code: bytes, device: torch.device | int | None = None) -> None:
        """Load `code` (a cubin) on `device`, the current one if left out.

        Raises:
            StartupError: there is no CUDA driver.
            CudaDriverError: the driver refuses the code, such as one for another architecture.
        """
        self.device_index = _device_index(device)
        self._handle = ctypes.c_void_p()
        driver = _driver()
        with torch.cuda.device(self.device_index):
            # The driver wants a current context; torch makes one with the first allocation.
            torch.empty(1, device=f"cuda:{self.device_index}")
            _check(driver.cuModuleLoadData(ctypes.byref(self._handle), code), "cuModuleLoadData")

    def kernel(
        self, name: str, arguments: str, *, block: int, shared_bytes: int = 0, pdl: bool = False
    ) -> CudaKernel:
        """A function of the module, ready to launch.

        Args:
            name: an `extern "C"` function.
            arguments: a letter for each parameter, as the module `struct` has them: "P" pointer,
                "i" int, "I" unsigned, "q" int64, "f" float.
            block: threads of a block.
            shared_bytes: dynamic shared memory of a block.
            pdl: allow programmatic dependent launch: the kernel may start before the one before it
                on the stream has ended, and must execute griddepcontrol.wait itself.

        Raises:
            CudaDriverError: there is no such function, or no such amount of shared memory.
        """
        driver = _driver()
        function = ctypes.c_void_p()
        with torch.cuda.device(self.device_index):
            _check(
                driver.cuModuleGetFunction(ctypes.byref(function), self._handle, name.encode()),
                f"cuModuleGetFunction({name})",
            )
            if shared_bytes > _DEFAULT_SHARED_BYTES:
                _check(
                    driver.cuFuncSetAttribute(
                        function, _MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes
                    ),
                    f"cuFuncSetAttribute({name}, shared memory, {shared_bytes})",
                )
        assert function.value is not None
        return CudaKernel(
            name, function.value, arguments, block, shared_bytes, pdl, self.device_index
        )


class CudaKernel:
    """A function with its launch configuration; call it with a grid and the arguments."""

    def __init__(
        self,
        name: str,
        function: int,
        arguments: str,
        block: int,
        shared_bytes: int,
        pdl: bool,
        device_index: int,
    ) -> None:
        self.name = name
        self._device_index = device_index
        self._function = ctypes.c_void_p(function)
        self._launch = _driver().cuLaunchKernelEx
        # "@" aligns every argument as C does; a pointer to each goes to the driver.
        self._pack = struct.Struct(f"@{arguments}")
        self._values = ctypes.create_string_buffer(max(self._pack.size, 1))
        base = ctypes.addressof(self._values)
        places = [
            base + struct.calcsize(f"@{arguments[: i + 1]}") - struct.calcsize(f"@{letter}")
            for i, letter in enumerate(arguments)
        ]
        self._parameters = (ctypes.c_void_p * max(len(places), 1))(*places)
        self._attribute = _LaunchAttribute(id=_PROGRAMMATIC_STREAM_SERIALIZATION, value=1)
        self._config = _LaunchConfig(
            grid_x=1,
            grid_y=1,
            grid_z=1,
            block_x=block,
            block_y=1,
            block_z=1,
            shared_bytes=shared_bytes,
            stream=None,
            attributes=ctypes.addressof(self._attribute) if pdl else None,
            num_attributes=1 if pdl else 0,
        )
        self._config_pointer = ctypes.byref(self._config)

    def __call__(self, grid: tuple[int, ...], *values: int | float) -> None:
        """Launch on torch's current stream of the module's device.

        Args:
            grid: one to three counts of blocks.
            values: one for each parameter; pointers as `Tensor.data_ptr()`.

        Raises:
            CudaDriverError: the driver refuses. A failure while the kernel runs shows later, as
                with any CUDA kernel.
        """
        self._pack.pack_into(self._values, 0, *values)
        config = self._config
        config.grid_x = grid[0]
        config.grid_y = grid[1] if len(grid) > 1 else 1
        config.grid_z = grid[2] if len(grid) > 2 else 1
        config.stream = torch._C._cuda_getCurrentRawStream(self._device_index)
        result = self._launch(self._config_pointer, self._function, self._parameters, None)
        if result != 0:
            _check(result, f"cuLaunchKernelEx({self.name}, grid {grid})")


def _device_index(device: torch.device | int | None) -> int:
    if isinstance(device, int):
        return device
    if device is not None and device.index is not None:
        return device.index
    return torch.cuda.current_device()


@functools.cache
def _driver() -> ctypes.PyDLL:
    # PyDLL keeps the interpreter's lock during a call: giving it up and taking it back would cost
    # more than a launch does.
    try:
        driver = ctypes.PyDLL("libcuda.so.1")
        driver.cuLaunchKernelEx.argtypes = [ctypes.c_void_p] * 4
    except (OSError, AttributeError) as error:
        raise StartupError(
            "The CUDA driver (libcuda.so.1, version 12 or later) is not installed on this machine: "
            f"{error}."
        ) from error
    driver.cuModuleLoadData.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    driver.cuModuleGetFunction.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    driver.cuFuncSetAttribute.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    return driver


def _check(result: int, call: str) -> None:
    if result == 0:
        return
    text = ctypes.c_char_p()
    _driver().cuGetErrorString(ctypes.c_int(result), ctypes.byref(text))
    reason = text.value.decode() if text.value else "unknown error"
    raise CudaDriverError(f"{call} failed: {reason} (CUDA error {result}).")
