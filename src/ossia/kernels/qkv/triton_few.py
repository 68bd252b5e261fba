"""Queries, keys and values of a few tokens: product, bias, rotation and cache.

Computes h[t, r] = sum_k w[r, k] n[t, k] + b[r] for normed rows n, then for rows i and
i + head_dim / 2 of each query or key head, at the angle of pair i at the token's position:
    first' = first cos - second sin,  second' = second cos + first sin

Bytes to move: the weight, 2 (heads + 2 kv_heads) head_dim hidden, 29.5 MB in gpt-oss: 9.8 us at
3 TB/s. The tokens themselves are small: 5.8 KB in, 10 KB out.

Launch shape: see `linear/triton_few.py`. The norm is a launch of its own (or of the kernel ahead),
because a rounded, normed row can go straight to the matrix instructions. A tile of rows holds both
members of its pairs, so that a program can turn them: runs of 8 rows from either half of a head,
which end up in the same thread. With splits, rows are taken in order, and `triton_place.py` adds
the partial sums and does the rest.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_few import (
    FewShape,
    ask_ahead,
    columns_of_split,
    product,
    sources,
)
from ossia.kernels.linear.triton_one import pdl_options
from ossia.kernels.qkv.triton_place import place_heads
from ossia.kernels.rms_norm.triton_norm import rms_norm
from ossia.kernels.thresholds import QKV_FEW_TOKENS
from ossia.model.batch import LayerCache

MOST_TOKENS = QKV_FEW_TOKENS
RUN = 8  # neighbouring rows of one half: a thread of a matrix instruction has rows g and g + 8


def default_shape(tokens: int) -> FewShape:
    """The fastest measured shape for this many tokens."""
    if tokens <= 16:
        return FewShape(rows=64, tokens=16, columns=128, stages=4, splits=2, tma=True, ahead=2)
    if tokens <= 32:
        return FewShape(rows=64, tokens=32, stages=6, splits=3, tma=True, ahead=4)
    return FewShape(rows=64, tokens=64, columns=128, stages=4, tma=True, ahead=4)


def project_qkv_few(
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
    shape: FewShape | None = None,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_qkv` for few tokens. h is not rounded before it is turned.

    Args:
        x: [tokens, hidden]. All tensors are contiguous.
        norm, weight, bias, eps, positions, slots, cos_sin, cache: see the reference. Nothing is
            written for a token whose slot is negative.
        shape: how the product is cut into programs; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended (Hopper and later).

    Returns:
        Rotated queries [tokens, heads, head_dim], of x's type.
    """
    normed = rms_norm(x, norm, eps, pdl=pdl)
    return project_normed_few(
        normed, weight, bias, positions, slots, cos_sin, cache, shape=shape, pdl=pdl
    )


def project_normed_few(
    normed: Tensor,
    weight: Tensor,
    bias: Tensor,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
    *,
    shape: FewShape | None = None,
    pdl: bool = False,
) -> Tensor:
    """The same for rows that were normed already: `combine` can do that on the way."""
    tokens, hidden = normed.shape
    rows = len(weight)
    kv_heads, head_dim = cache.keys.shape[2:]
    heads = rows // head_dim - 2 * kv_heads
    shape = shape or default_shape(tokens)
    assert weight.shape[1] == hidden
    assert rows % shape.rows == 0
    if shape.splits == 1:
        assert head_dim % shape.rows == 0
        assert shape.rows >= 2 * RUN
        assert not shape.tma or shape.rows == head_dim
    q = torch.empty((tokens, heads, head_dim), dtype=normed.dtype, device=normed.device)
    partial = shape.partial(tokens, rows, normed.device) if shape.splits > 1 else None
    weight_source, x_source = sources(weight, normed, shape)
    _project_few[shape.grid(rows, tokens)](
        weight_source,
        weight,
        x_source,
        bias,
        positions,
        slots,
        cos_sin,
        q,
        cache.keys,
        cache.values,
        q if partial is None else partial,
        tokens,
        HIDDEN=hidden,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        ROWS=shape.rows,
        RUN=head_dim // 2 if shape.tma else RUN,
        TOKENS=shape.tokens,
        COLUMNS=shape.columns,
        STAGES=shape.stages,
        SPLITS=shape.splits,
        TMA=shape.tma,
        AHEAD=shape.ahead if pdl else 0,
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    if partial is not None:
        place_heads(partial, bias, positions, slots, cos_sin, cache, q, pdl=pdl)
    return q


@fast_jit(do_not_specialize=["count", "position_ptr", "slot_ptr"])
def _project_few(  # type: ignore[no-untyped-def]
    weight,  # [(HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN], or a descriptor of it
    weight_ptr,  # the tensor itself
    x,  # [count, HIDDEN], normed, or a descriptor of it
    bias_ptr,  # [(HEADS + 2 * KV_HEADS) * HEAD_DIM]
    position_ptr,  # int64 [count]
    slot_ptr,  # int64 [count]
    cos_sin_ptr,  # float32 [positions, HEAD_DIM]
    q_ptr,  # [count, HEADS * HEAD_DIM]
    key_ptr,  # [slots, KV_HEADS * HEAD_DIM]
    value_ptr,  # the same
    partial_ptr,  # float32 [SPLITS, count, (HEADS + 2 * KV_HEADS) * HEAD_DIM], if SPLITS > 1
    count,
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    RUN: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    TMA: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    HALF: tl.constexpr = HEAD_DIM // 2
    PAIRS: tl.constexpr = ROWS // 2
    TILES: tl.constexpr = 1 if ROWS > HEAD_DIM else HEAD_DIM // ROWS  # of a head
    RUNS: tl.constexpr = 1 if RUN > PAIRS else PAIRS // RUN
    ALL: tl.constexpr = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    head = tl.program_id(0) // TILES
    first_pair = tl.program_id(0) % TILES * PAIRS
    first_token = tl.program_id(2) * TOKENS
    r = tl.arange(0, ROWS)
    if SPLITS > 1:
        row = tl.program_id(0) * ROWS + r
    else:
        row = head * HEAD_DIM + first_pair + r // (2 * RUN) * RUN + r % RUN + r // RUN % 2 * HALF
    begin, end = columns_of_split(tl.program_id(1), HIDDEN, COLUMNS, SPLITS)
    if PDL:
        gdc_launch_dependents()
        if AHEAD > 0:
            ask_ahead(weight_ptr, row, begin, HIDDEN, COLUMNS, AHEAD)
        gdc_wait()
    total = product(
        weight,
        x,
        tl.program_id(0) * ROWS,
        row,
        first_token,
        count,
        begin,
        end,
        HIDDEN,
        ROWS,
        TOKENS,
        COLUMNS,
        STAGES,
        TMA,
    )

    token = first_token + tl.arange(0, TOKENS)
    present = token < count
    if SPLITS > 1:
        out = (tl.program_id(1) * count + token) * ALL
        tl.store(partial_ptr + out[None, :] + row[:, None], total, mask=present[None, :])
    else:
        total += tl.load(bias_ptr + row).to(tl.float32)[:, None]
        runs = tl.reshape(total, [RUNS, 2, RUN, TOKENS])
        first, second = tl.split(tl.permute(runs, [0, 2, 3, 1]))
        first = tl.reshape(first, [PAIRS, TOKENS])
        second = tl.reshape(second, [PAIRS, TOKENS])
        pair = (first_pair + tl.arange(0, PAIRS))[:, None]
        if head < HEADS + KV_HEADS:
            position = tl.load(position_ptr + token, mask=present, other=0)
            angle = cos_sin_ptr + position[None, :] * HEAD_DIM + pair
            cos = tl.load(angle)
            sin = tl.load(angle + HALF)
            turned = first * cos - second * sin
            second = second * cos + first * sin
            first = turned
        if head < HEADS:
            out = q_ptr + token[None, :] * (HEADS * HEAD_DIM) + head * HEAD_DIM + pair
            tl.store(out, first.to(q_ptr.dtype.element_ty), mask=present[None, :])
            tl.store(out + HALF, second.to(q_ptr.dtype.element_ty), mask=present[None, :])
        else:
            slot = tl.load(slot_ptr + token, mask=present, other=-1)
            kv_head = (head - HEADS) % KV_HEADS
            place = slot[None, :] * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM + pair
            written = (slot >= 0)[None, :]
            if head < HEADS + KV_HEADS:
                tl.store(key_ptr + place, first.to(key_ptr.dtype.element_ty), mask=written)
                tl.store(key_ptr + place + HALF, second.to(key_ptr.dtype.element_ty), mask=written)
            else:
                tl.store(value_ptr + place, first.to(value_ptr.dtype.element_ty), mask=written)
                tl.store(
                    value_ptr + place + HALF, second.to(value_ptr.dtype.element_ty), mask=written
                )
