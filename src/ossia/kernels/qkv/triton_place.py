"""Turns projected queries and keys, and puts each where it belongs.

Computes h[t, r] = sum_s p[s, t, r] (+ b[r]), then for rows i and i + head_dim / 2 of each query or
key head:  first' = first cos - second sin,  second' = second cos + first sin.

Bytes to move: what was projected once, and the results: 20 KB a token of gpt-oss in bfloat16, or
20 KB a split and token in float32.

Launch shape: one program for each token and 16 heads. The heads are queries, keys and values one
after another; a program writes each part under a mask, which costs nothing where it has none.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options
from ossia.model.batch import LayerCache

HEADS_A_PROGRAM = 16


def place_heads(
    projected: Tensor,
    bias: Tensor | None,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
    q: Tensor,
    *,
    pdl: bool = False,
) -> None:
    """Write the queries to `q`, the keys and values to the cache.

    Args:
        projected: [splits, tokens, (heads + 2 * kv_heads) * head_dim], any float type: sums over
            parts of the inputs, added in order. All tensors are contiguous.
        bias: [(heads + 2 * kv_heads) * head_dim], or None where `projected` has it.
        positions: int64 [tokens], rows of `cos_sin`.
        slots: int64 [tokens]; keys and values of a token with a negative one are not written.
        cos_sin: float32 [max_positions, head_dim], cosines then sines.
        cache: of the layer.
        q: [tokens, heads, head_dim], filled.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    splits, tokens, rows = projected.shape
    heads, head_dim = q.shape[1:]
    all_heads = rows // head_dim
    _place[(tokens, triton.cdiv(all_heads, HEADS_A_PROGRAM))](
        projected,
        projected if bias is None else bias,
        positions,
        slots,
        cos_sin,
        q,
        cache.keys,
        cache.values,
        tokens,
        HEADS=heads,
        KV_HEADS=(all_heads - heads) // 2,
        HEAD_DIM=head_dim,
        SPLITS=splits,
        BIAS=bias is not None,
        TILE=HEADS_A_PROGRAM,
        PAIRS=triton.next_power_of_2(head_dim // 2),
        PDL=pdl,
        num_warps=2,
        **pdl_options(pdl),
    )


@fast_jit(do_not_specialize=["count", "position_ptr", "slot_ptr"])
def _place(  # type: ignore[no-untyped-def]
    projected_ptr,  # [SPLITS, count, (HEADS + 2 * KV_HEADS) * HEAD_DIM]
    bias_ptr,  # [(HEADS + 2 * KV_HEADS) * HEAD_DIM], if BIAS
    position_ptr,  # int64 [count]
    slot_ptr,  # int64 [count]
    cos_sin_ptr,  # float32 [positions, HEAD_DIM]
    q_ptr,  # [count, HEADS, HEAD_DIM]
    key_ptr,  # [slots, KV_HEADS, HEAD_DIM]
    value_ptr,  # the same
    count,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    TILE: tl.constexpr,
    PAIRS: tl.constexpr,
    PDL: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    TURNED: tl.constexpr = HEADS + KV_HEADS
    ALL: tl.constexpr = HEADS + 2 * KV_HEADS
    token = tl.program_id(0).to(tl.int64)
    head = (tl.program_id(1) * TILE + tl.arange(0, TILE))[:, None]
    pair = tl.arange(0, PAIRS)[None, :]
    inside = (head < ALL) & (pair < HALF)
    at = head * HEAD_DIM + pair
    first = tl.zeros([TILE, PAIRS], tl.float32)
    second = tl.zeros([TILE, PAIRS], tl.float32)
    if BIAS:
        first += tl.load(bias_ptr + at, mask=inside, other=0.0).to(tl.float32)
        second += tl.load(bias_ptr + at + HALF, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    position = tl.load(position_ptr + token)
    slot = tl.load(slot_ptr + token)
    for split in tl.static_range(SPLITS):
        source = projected_ptr + (split * count + token) * (ALL * HEAD_DIM) + at
        first += tl.load(source, mask=inside, other=0.0).to(tl.float32)
        second += tl.load(source + HALF, mask=inside, other=0.0).to(tl.float32)

    angle = cos_sin_ptr + position * HEAD_DIM + pair
    turns = inside & (head < TURNED)
    cos = tl.load(angle + tl.zeros_like(head), mask=turns, other=1.0)
    sin = tl.load(angle + HALF + tl.zeros_like(head), mask=turns, other=0.0)
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin

    out = q_ptr + token * (HEADS * HEAD_DIM) + at
    mask = inside & (head < HEADS)
    tl.store(out, turned_first.to(q_ptr.dtype.element_ty), mask=mask)
    tl.store(out + HALF, turned_second.to(q_ptr.dtype.element_ty), mask=mask)
    place = slot * (KV_HEADS * HEAD_DIM) + at
    out = key_ptr + place - HEADS * HEAD_DIM
    mask = turns & (head >= HEADS) & (slot >= 0)
    tl.store(out, turned_first.to(key_ptr.dtype.element_ty), mask=mask)
    tl.store(out + HALF, turned_second.to(key_ptr.dtype.element_ty), mask=mask)
    out = value_ptr + place - TURNED * HEAD_DIM
    mask = inside & (head >= TURNED) & (slot >= 0)
    tl.store(out, turned_first.to(value_ptr.dtype.element_ty), mask=mask)
    tl.store(out + HALF, turned_second.to(value_ptr.dtype.element_ty), mask=mask)
