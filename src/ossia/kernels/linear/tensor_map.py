"""Descriptions of matrices for the tensor copy engine of Hopper, made by the CUDA driver."""

from __future__ import annotations

import ctypes
import functools
import struct

from torch import Tensor

from ossia.errors import StartupError
from ossia.kernels.cuda.module import CudaDriverError

WORDS = 16  # of 8 bytes, in a description
CHUNK = 64  # columns of a box: 128 bytes of bfloat16, the width of the swizzle

# From cuda.h.
_BFLOAT16 = 9  # CUtensorMapDataType
_SWIZZLE_128_BYTES = 3
_PROMOTION_256_BYTES = 3  # what the L2 fetches from memory at a time
_ALIGNMENT = 64


def tensor_map(matrix: Tensor, box_rows: int) -> tuple[int, ...]:
    """A CUtensorMap of a bfloat16 matrix [rows, columns], as 16 words for the kernel's parameters.

    A copy takes a box of `box_rows` rows and 64 columns to shared memory, row by row, the eight
    pieces of 16 bytes of row r at places piece ^ (r % 8). What lies outside of the matrix is zero.

    Args:
        matrix: contiguous, at a multiple of 16 bytes, its rows a multiple of 16 bytes long.
        box_rows: at most 256.

    Raises:
        CudaDriverError: the driver refuses.
        StartupError: there is no CUDA driver of version 12 or later.
    """
    rows, columns = matrix.shape
    assert matrix.is_contiguous()
    assert matrix.element_size() == 2
    return _encode(matrix.data_ptr(), rows, columns, box_rows)


# A description depends on nothing but these numbers, so those of weights are made once.
@functools.lru_cache(maxsize=4096)
def _encode(address: int, rows: int, columns: int, box_rows: int) -> tuple[int, ...]:
    size = WORDS * 8
    room = ctypes.create_string_buffer(size + _ALIGNMENT)
    start = -ctypes.addressof(room) % _ALIGNMENT
    result = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(ctypes.addressof(room) + start),
        ctypes.c_int(_BFLOAT16),
        ctypes.c_uint(2),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * 2)(columns, rows),
        (ctypes.c_uint64 * 1)(columns * 2),
        (ctypes.c_uint32 * 2)(CHUNK, box_rows),
        (ctypes.c_uint32 * 2)(1, 1),
        ctypes.c_int(0),  # not interleaved
        ctypes.c_int(_SWIZZLE_128_BYTES),
        ctypes.c_int(_PROMOTION_256_BYTES),
        ctypes.c_int(0),  # zeros outside
    )
    if result != 0:
        raise CudaDriverError(
            f"cuTensorMapEncodeTiled failed with {result} for {rows} x {columns} at {address:#x}, "
            f"boxes of {box_rows} rows."
        )
    return struct.unpack_from(f"@{WORDS}Q", room, start)


@functools.cache
def _driver() -> ctypes.PyDLL:
    try:
        driver = ctypes.PyDLL("libcuda.so.1")
        driver.cuTensorMapEncodeTiled.restype = ctypes.c_int
    except (OSError, AttributeError) as error:
        raise StartupError(
            "The CUDA driver (libcuda.so.1, version 12 or later) is not installed on this machine: "
            f"{error}."
        ) from error
    return driver
