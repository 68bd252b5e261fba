"""The operations that halves of a block are made of, one by one: for tests and measurements."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from ossia.kernels.native.blocks import Heads, Pages, cache_struct, check
from ossia.kernels.native.library import Context
from ossia.model.batch import LayerCache


def rms_norm(context: Context, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight; x float32 [tokens, n], weight float32 [n]."""
    out = torch.empty_like(x)
    check(
        context.library.ossia_rms_norm(
            context.handle,
            x.data_ptr(),
            x.shape[0],
            x.shape[1],
            weight.data_ptr(),
            eps,
            out.data_ptr(),
        )
    )
    return out


def rotate_and_write(
    context: Context, qkv: Tensor, heads: Heads, pages: Pages, cache: LayerCache
) -> None:
    """Turn queries and keys of qkv, float32 [tokens, rows], in place; write keys and values."""
    geometry, places = heads.struct(), cache_struct(cache)
    check(
        context.library.ossia_rotate_and_write(
            context.handle,
            qkv.data_ptr(),
            ctypes.byref(geometry),
            pages.address,
            ctypes.byref(places),
        )
    )


def attend(
    context: Context, q: Tensor, heads: Heads, pages: Pages, cache: LayerCache, sinks: Tensor
) -> Tensor:
    """Attention over what the cache holds: q float32 [tokens, heads, head_dim] -> the same.

    q may be part of wider rows; sinks float32 [heads].
    """
    out = torch.empty(q.shape)
    geometry, places = heads.struct(), cache_struct(cache)
    check(
        context.library.ossia_attend(
            context.handle,
            q.data_ptr(),
            q.stride(0),
            ctypes.byref(geometry),
            pages.address,
            ctypes.byref(places),
            sinks.data_ptr(),
            out.data_ptr(),
        )
    )
    return out


def route(
    context: Context, x: Tensor, router: Tensor, bias: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k experts of each token and their shares; see `moe/reference.py`.

    Args:
        context: threads and level.
        x: float32 [tokens, hidden], normed.
        router: float32 [experts, hidden].
        bias: float32 [experts].
        k: at most 16.

    Returns:
        shares: float32 [tokens, k].
        chosen: int32 [tokens, k]; the lower number first where logits are equal.
    """
    shares = torch.empty(len(x), k)
    chosen = torch.empty(len(x), k, dtype=torch.int32)
    check(
        context.library.ossia_route(
            context.handle,
            x.data_ptr(),
            len(x),
            x.shape[1],
            router.data_ptr(),
            bias.data_ptr(),
            len(router),
            k,
            chosen.data_ptr(),
            shares.data_ptr(),
        )
    )
    return shares, chosen
