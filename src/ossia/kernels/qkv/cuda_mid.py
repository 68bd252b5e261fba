"""Queries, keys and values of 65 to 256 tokens in one kernel on Hopper; see `cuda_mid.cu`."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ossia.kernels.cuda.module import CudaKernel
from ossia.kernels.linear.cuda_mid import MidShape, can_multiply, groups_for, maps, mid_kernel
from ossia.model.batch import LayerCache

_STAGES = {1: 8, 2: 6, 3: 5, 4: 4}  # of the ring, by groups of tokens: what shared memory holds


def default_shape(tokens: int) -> MidShape:
    """For gpt-oss: 40 tiles of 128 rows and 3 splits are 120 blocks."""
    groups = groups_for(tokens)
    return MidShape(rows=128, groups=groups, stages=_STAGES[groups], splits=3)


def fits(normed: Tensor, weight: Tensor, cache: LayerCache, shape: MidShape) -> bool:
    """Whether the kernel takes these rows, this weight and this cache."""
    head_dim = cache.keys.shape[-1]
    return (
        can_multiply(weight, normed, shape)
        and cache.keys.dtype == cache.values.dtype == torch.bfloat16
        and head_dim % 16 == 0
        and shape.rows % head_dim == 0
        and len(weight) % (shape.rows * shape.share) == 0
    )


def project_normed_mid(
    normed: Tensor,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
    *,
    shape: MidShape | None = None,
    pdl: bool = False,
) -> Tensor:
    """`fused_many.project_normed_many`, in one launch. h is not rounded before it is turned.

    Args:
        normed: bfloat16 [tokens, hidden]. All tensors are contiguous.
        weight, bias, positions, slots, cos_sin, cache: see `reference.project_qkv`; `fits` holds.
            Nothing is written for a token whose slot is negative.
        shape: how the product is cut into blocks; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended.

    Returns:
        Rotated queries [tokens, heads, head_dim], bfloat16.

    Raises:
        CudaCompileError, CudaDriverError: the kernel cannot be built or started.
    """
    tokens, hidden = normed.shape
    kv_heads, head_dim = cache.keys.shape[2:]
    heads = len(weight) // head_dim - 2 * kv_heads
    shape = shape or default_shape(tokens)
    assert fits(normed, weight, cache, shape)
    assert weight.shape[1] == hidden
    assert bias.dtype == torch.bfloat16
    assert cos_sin.dtype == torch.float32
    assert positions.dtype == slots.dtype == torch.int64
    index = normed.device.index
    q = torch.empty((tokens, heads, head_dim), dtype=normed.dtype, device=normed.device)
    _kernel(hidden, heads, kv_heads, head_dim, shape, pdl, index)(
        shape.grid(len(weight), tokens),
        bias.data_ptr(),
        positions.data_ptr(),
        slots.data_ptr(),
        cos_sin.data_ptr(),
        q.data_ptr(),
        cache.keys.data_ptr(),
        cache.values.data_ptr(),
        tokens,
        *maps(weight, normed, shape),
    )
    return q


def macros(
    hidden: int, heads: int, kv_heads: int, head_dim: int, shape: MidShape
) -> dict[str, int | str]:
    """What the source wants."""
    return {**shape.macros(hidden), "HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim}


@functools.cache
def _kernel(
    hidden: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    shape: MidShape,
    pdl: bool,
    device_index: int,
) -> CudaKernel:
    return mid_kernel(
        "qkv",
        "project_qkv_mid",
        "PPPPPPPi",
        shape,
        macros(hidden, heads, kv_heads, head_dim, shape),
        pdl=pdl,
        device_index=device_index,
    )
