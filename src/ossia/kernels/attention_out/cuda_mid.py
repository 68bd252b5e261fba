"""The output projection of attention for 65 to 256 tokens on Hopper; see `cuda_mid.cu`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ossia.kernels.cuda.module import CudaKernel
from ossia.kernels.linear.cuda_mid import MidShape, can_multiply, groups_for, maps, mid_kernel

_STAGES = {1: 8, 2: 7, 3: 6, 4: 5}  # of the ring, by groups of tokens: what shared memory holds


def default_shape(tokens: int) -> MidShape:
    """For gpt-oss: 30 tiles of 96 rows and 4 splits are 120 blocks."""
    groups = groups_for(tokens)
    return MidShape(rows=96, groups=groups, stages=_STAGES[groups], splits=4)


def fits(mixed: Tensor, weight: Tensor, shape: MidShape) -> bool:
    """Whether the kernel takes these rows and this weight."""
    return can_multiply(weight, mixed, shape) and len(weight) % (shape.rows * shape.share) == 0


def project_out_mid(
    x: Tensor,
    mixed: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    shape: MidShape | None = None,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_out` in one launch; the result is a new tensor [tokens, hidden].

    Args:
        x: bfloat16 [tokens, hidden]. All tensors are contiguous, and `fits` holds.
        mixed: [tokens, heads * head_dim] or [tokens, heads, head_dim].
        weight, bias: see the reference.
        shape: how the product is cut into blocks; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended.

    Raises:
        CudaCompileError, CudaDriverError: the kernel cannot be built or started.
    """
    tokens = len(x)
    hidden, inputs = weight.shape
    mixed = mixed.view(tokens, inputs)
    shape = shape or default_shape(tokens)
    assert fits(mixed, weight, shape)
    assert x.shape == (tokens, hidden)
    assert x.dtype == bias.dtype == torch.bfloat16
    out = torch.empty_like(x)
    _kernel(hidden, inputs, shape, pdl, x.device.index)(
        shape.grid(hidden, tokens),
        bias.data_ptr(),
        x.data_ptr(),
        out.data_ptr(),
        tokens,
        *maps(weight, mixed, shape),
    )
    return out


@functools.cache
def _kernel(hidden: int, inputs: int, shape: MidShape, pdl: bool, device_index: int) -> CudaKernel:
    return mid_kernel(
        "attention_out",
        "project_out_mid",
        "PPPi",
        shape,
        {**shape.macros(inputs), "HIDDEN": hidden},
        pdl=pdl,
        device_index=device_index,
    )
