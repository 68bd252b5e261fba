"""Launches Triton kernels with little work on the host.

Triton's own launch binds and classifies every argument each time, which takes it 30 us to 50 us
with some twenty of them. What it compiled can be called with addresses instead, for a few.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes; Triton compiles another variant for pointers that are aligned to less


class Launcher:
    """Remembers what was compiled, and scratch memory. For one device and one stream."""

    def __init__(self) -> None:
        self._compiled: dict[tuple[object, ...], tuple[Any, tuple[object, ...]]] = {}
        self._buffers: dict[str, Tensor] = {}

    def buffer(self, name: str, size: int, like: Tensor) -> Tensor:
        """[size or more], not initialised, with the type and the device of `like`.

        The same memory for the same name: only for what the last launch before has used up.
        """
        found = self._buffers.get(name)
        if found is None or found.numel() < size:
            found = torch.empty(size, dtype=like.dtype, device=like.device)
            self._buffers[name] = found
        return found

    def __call__(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        tensors: tuple[Tensor, ...],
        constants: dict[str, Any],
        *,
        loose: int = 0,
        **options: Any,
    ) -> None:
        """Launch a kernel on the current stream.

        Args:
            kernel: a function of `triton.jit`: pointers first, everything else constexpr.
            grid: programs.
            tensors: what the pointers point to.
            constants: by name, the same names in the same order each time.
            loose: so many pointers at the end are in the kernel's do_not_specialize_on_alignment.
            options: of the compiler, as for `constants`.
        """
        addresses = [tensor.data_ptr() for tensor in tensors]
        key = (
            kernel.fn,
            *constants.values(),
            *options.values(),
            *[tensor.dtype for tensor in tensors],
        )
        bits = 0
        for address in addresses[: len(addresses) - loose]:
            bits |= address
        aligned = bits % ALIGNMENT == 0
        found = self._compiled.get(key) if aligned else None
        if found is not None:
            compiled, values = found
            compiled[grid](*addresses, *values)
            return
        compiled = kernel[grid](*tensors, **constants, **options)
        if aligned and compiled is not None:  # the interpreter has nothing to remember
            names = kernel.arg_names[len(tensors) :]
            self._compiled[key] = compiled, tuple(constants[name] for name in names)
