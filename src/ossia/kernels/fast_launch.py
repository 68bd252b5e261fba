"""`triton.jit` with launches that take the host a few microseconds instead of some thirty.

Triton binds and classifies every argument at every launch. Where CUDA graphs do not help, in steps
with prompts, a network has hundreds of launches, and a short prompt waits for the host and not for
the GPU. Here a launch looks up what was compiled by those properties of the arguments on which
Triton's own choice can depend, and calls it with addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ALIGNMENT = 16  # bytes, and the divisor of integers: Triton compiles other variants below
_INT32 = range(-(2**31), 2**31)


def fast_jit(**options: Any) -> Callable[[Any], FastKernel]:
    """Decorates a kernel like `triton.jit(**options)`; for kernels that the host launches."""

    def decorate(function: Any) -> FastKernel:
        return FastKernel(triton.jit(**options)(function))

    return decorate


class FastKernel:
    """Launched as `kernel[grid](*arguments, **constants_and_options)`."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        # Like the cache of `triton.jit`'s own object, it only grows with the variants in use.
        self._compiled: dict[tuple[object, ...], tuple[Any, tuple[object, ...]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kernel, name)

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        """A function that launches `grid` programs on the current stream.

        Its arguments are as for `triton.jit`, constants by name; a grid must be a tuple.
        """
        whole = (*grid, 1, 1)[:3]

        def launch(*arguments: Any, **named: Any) -> Any:
            addresses: list[object] = []
            kinds: list[tuple[object, ...] | None] = []
            for argument in arguments:
                if isinstance(argument, Tensor):
                    address = argument.data_ptr()
                    addresses.append(address)
                    kinds.append((argument.dtype, address % _ALIGNMENT == 0))
                else:
                    addresses.append(argument)
                    kinds.append(_kind(argument))
            key = (getattr(arguments[0], "device", None), *kinds, *named.items())
            found = self._compiled.get(key)
            if found is not None:
                compiled, constants = found
                compiled[whole](*addresses, *constants)
                return compiled
            compiled = self.kernel[grid](*arguments, **named)
            names = self.kernel.arg_names[len(arguments) :]
            known = None not in kinds and all(name in named for name in names)
            if compiled is not None and known:  # the interpreter has nothing to remember
                self._compiled[key] = compiled, tuple(named[name] for name in names)
            return compiled

        return launch


def _kind(argument: object) -> tuple[object, ...] | None:
    """What Triton's choice can depend on; None: of no kind that is known here."""
    if isinstance(argument, bool) or argument is None:
        return (argument,)
    if isinstance(argument, int):
        return (argument == 1, argument % _ALIGNMENT == 0, argument in _INT32)
    if isinstance(argument, TensorDescriptor):
        return (argument.base.dtype, *argument.block_shape)
    return (float,) if isinstance(argument, float) else None
