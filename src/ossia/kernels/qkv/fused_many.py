"""Queries, keys and values of many tokens: norm, the library's product, then one placing kernel.

Bytes to move a token of gpt-oss in bfloat16, beside the weight: 11.5 KB to norm, 16 KB of product,
20 KB to place. From a few hundred tokens on the product is bound by arithmetic: 29.5 MFLOP a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.qkv.triton_place import place_heads
from ossia.kernels.rms_norm.triton_norm import rms_norm
from ossia.model.batch import LayerCache


def project_qkv_many(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
    *,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_qkv` for any number of tokens.

    Args:
        x, norm, weight, bias, eps, positions, slots, cos_sin, cache: see the reference, and
            contiguous. Nothing is written for a token whose slot is negative.
        pdl: launch our kernels before the ones ahead have ended (Hopper and later).

    Returns:
        Rotated queries [tokens, heads, head_dim], of x's type, contiguous.
    """
    return project_normed_many(
        rms_norm(x, norm, eps, pdl=pdl), weight, bias, positions, slots, cos_sin, cache, pdl=pdl
    )


def project_normed_many(
    normed: Tensor,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
    *,
    pdl: bool = False,
) -> Tensor:
    """The same for rows that were normed already: `combine` can do that on the way."""
    kv_heads, head_dim = cache.keys.shape[2:]
    heads = len(weight) // head_dim - 2 * kv_heads
    projected = torch.addmm(bias, normed, weight.t())  # [tokens, (heads + 2 kv_heads) head_dim]
    q = torch.empty((len(normed), heads, head_dim), dtype=normed.dtype, device=normed.device)
    place_heads(projected[None], None, positions, slots, cos_sin, cache, q, pdl=pdl)
    return q
