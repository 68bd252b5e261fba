"""Mapped tensors of which a row is read here and there, such as the embedding."""

from __future__ import annotations

import ctypes
import mmap

from torch import Tensor


def expect_rows(tensor: Tensor) -> None:
    """Have the system read only what is touched of a tensor that is a view of a mapped file.

    Otherwise it reads ahead at each row that is not in memory, up to megabytes: 5 ms for a row
    that takes 0.1 ms by itself (virtual machine with a network disk). What this does for tensors
    that are not mapped, or systems without the call, is nothing.
    """
    advise = getattr(ctypes.CDLL(None), "madvise", None) if hasattr(mmap, "MADV_RANDOM") else None
    if advise is None or tensor.device.type != "cpu":
        return
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    size = tensor.data_ptr() + tensor.nbytes - begin
    if size > 0:
        advise(ctypes.c_void_p(begin), ctypes.c_size_t(size), ctypes.c_int(mmap.MADV_RANDOM))
