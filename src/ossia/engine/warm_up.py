"""Kernels made ready before the first request: compiled or loaded from disk, then tested.

On a GPU the first launch of a kernel compiles it (a second or more) or loads it from the cache on
disk (milliseconds). This runs in a thread beside the loading of the weights, so it must not capture
CUDA graphs and must not change what belongs to the process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from ossia.config import ModelConfig
from ossia.kernels.select import Kernels
from ossia.kernels.self_test import self_test


@dataclass(frozen=True, slots=True)
class WarmedUp:
    """What `warm_up` did."""

    seconds: float
    lines: tuple[str, ...]  # one for each kernel that was compiled or loaded


def warm_up(
    kernels: Kernels,
    model: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    max_rows: int,
    max_tokens: int,
) -> WarmedUp:
    """Make the kernels ready for a model and compare them with their references.

    Args:
        kernels: what `select_kernels` chose; those of a GPU may have a `warm_up`.
        model: its geometry.
        device: where it runs.
        dtype: of weights and activations.
        max_rows: sequences that decode in one step.
        max_tokens: in the largest step.

    Raises:
        StartupError: a kernel does not compile, or gives wrong numbers; names the kernel.
    """
    started = time.monotonic()
    prepare = kernels.warm_up
    lines: tuple[str, ...] = ()
    if prepare is None:
        self_test(kernels, device, dtype)
    else:
        lines = tuple(prepare(model, device, max_rows, max_tokens))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return WarmedUp(time.monotonic() - started, lines)
