"""Makes the CUDA context while torch is still being imported. Imports no torch.

The driver takes some tenths of a second for its first call and for a context, and importing torch
takes a second or more; neither needs the other. torch uses the device's primary context, and finds
it there.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading

_LIBRARY = "libcuda.so.1"


def begin_cuda_context() -> None:
    """Begin in a thread of its own. Where there is no driver or no GPU, nothing happens; a fault
    is left for torch to find and to name."""
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch would set it
    threading.Thread(target=_make_context, name="cuda-context", daemon=True).start()


def _make_context() -> None:
    with contextlib.suppress(OSError, AttributeError):
        driver = ctypes.CDLL(_LIBRARY)  # calls release the interpreter's lock
        device, context = ctypes.c_int(), ctypes.c_void_p()
        if driver.cuInit(0) == 0 and driver.cuDeviceGet(ctypes.byref(device), 0) == 0:
            # Retained for the life of the process, as torch does.
            driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
