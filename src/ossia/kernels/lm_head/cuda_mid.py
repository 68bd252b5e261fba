"""Logits of 65 to 256 rows on Hopper; see `cuda_mid.cu`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ossia.kernels.cuda.module import CudaKernel
from ossia.kernels.linear.cuda_mid import MidShape, can_multiply, groups_for, maps, mid_kernel
from ossia.kernels.rms_norm.triton_norm import rms_norm

_STAGES = {1: 8, 2: 6, 3: 5, 4: 4}  # of the ring, by groups of tokens: what shared memory holds


def default_shape(rows: int) -> MidShape:
    """Tiles of 128 rows of the head, two of which share what they read of the tokens."""
    groups = groups_for(rows)
    return MidShape(rows=128, groups=groups, stages=_STAGES[groups], share=2)


def fits(x: Tensor, weight: Tensor, shape: MidShape) -> bool:
    """Whether the kernel takes these rows and this head."""
    return can_multiply(weight, x, shape) and len(weight) % 2 == 0 and shape.splits == 1


def logits_mid(
    x: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    *,
    shape: MidShape | None = None,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """`fused_many.logits_many` by a kernel of ours: float32 [rows, vocab].

    Args:
        x: bfloat16 [rows, hidden]. All tensors are contiguous, and `fits` holds.
        norm, eps, weight, out: see `fused_many.logits_many`.
        shape: how the product is cut into blocks; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended.

    Raises:
        CudaCompileError, CudaDriverError: the kernel cannot be built or started.
    """
    rows, hidden = x.shape
    vocab = len(weight)
    shape = shape or default_shape(rows)
    assert fits(x, weight, shape)
    normed = rms_norm(x, norm, eps, pdl=pdl)
    logits = (
        torch.empty((rows, vocab), dtype=torch.float32, device=x.device) if out is None else out
    )
    assert logits.shape == (rows, vocab)
    assert logits.is_contiguous()
    _kernel(hidden, shape, pdl, x.device.index)(
        shape.grid(vocab, rows),
        logits.data_ptr(),
        rows,
        vocab,
        *maps(weight, normed, shape),
    )
    return logits


@functools.cache
def _kernel(hidden: int, shape: MidShape, pdl: bool, device_index: int) -> CudaKernel:
    return mid_kernel(
        "lm_head",
        "logits_mid",
        "Pii",
        shape,
        shape.macros(hidden),
        pdl=pdl,
        device_index=device_index,
    )
