"""Queries, keys and values of one token: norm, product, bias, rotation and cache in one kernel.

Computes h[r] = (sum_k w[r, k] norm[k] x[k]) / sqrt(mean(x^2) + eps) + b[r], then for rows i and
i + head_dim / 2 of each query or key head, at the angle of pair i at the token's position:
    first' = first cos - second sin,  second' = second cos + first sin

Bytes to move: the weight, 2 (heads + 2 kv_heads) head_dim hidden, 29.5 MB in gpt-oss: 9.8 us at
3 TB/s.

Launch shape: see `linear/triton_one.py`. A program owns both rows of each of its pairs, so that it
can turn them: rows i .. i + rows / 2 of a head and the same ones head_dim / 2 further. It writes
the results where they belong: queries to `q`, keys and values to the token's slot.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import (
    MatVecShape,
    load_rows,
    load_vector,
    normed_product,
    pdl_options,
)
from ossia.model.batch import LayerCache

DEFAULT = MatVecShape(rows=4, piece=1024, warps=4)


def project_qkv_one(
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
    shape: MatVecShape = DEFAULT,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_qkv` for one token; nothing is rounded before the results are.

    Args:
        x: [1, hidden]. All tensors are contiguous.
        norm, weight, bias, eps, positions, slots, cos_sin, cache: see the reference. head_dim is a
            multiple of `shape.rows`, and even.
        shape: how the rows are cut into programs.
        pdl: launch before the kernel ahead has ended (Hopper and later).

    Returns:
        Rotated queries [1, heads, head_dim], of x's type.
    """
    rows, hidden = weight.shape
    kv_heads, head_dim = cache.keys.shape[2:]
    heads = rows // head_dim - 2 * kv_heads
    assert x.shape == (1, hidden)
    assert shape.rows >= 2
    assert head_dim % shape.rows == 0
    q = torch.empty((1, heads, head_dim), dtype=x.dtype, device=x.device)
    _project_qkv_one[(rows // shape.rows,)](
        x,
        norm,
        weight,
        bias,
        positions,
        slots,
        cos_sin,
        q,
        cache.keys,
        cache.values,
        HIDDEN=hidden,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HEAD_DIM=head_dim,
        EPS=eps,
        ROWS=shape.rows,
        PIECE=shape.columns(hidden),
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    return q


# positions and slots may be parts of larger tensors, at any alignment: one kernel serves all.
@fast_jit(do_not_specialize=["position_ptr", "slot_ptr"])
def _project_qkv_one(  # type: ignore[no-untyped-def]
    x_ptr,  # [HIDDEN]
    norm_ptr,  # [HIDDEN]
    weight_ptr,  # [(HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN]
    bias_ptr,  # [(HEADS + 2 * KV_HEADS) * HEAD_DIM]
    position_ptr,  # int64 [1]
    slot_ptr,  # int64 [1]
    cos_sin_ptr,  # float32 [positions, HEAD_DIM]
    q_ptr,  # [HEADS * HEAD_DIM]
    key_ptr,  # [slots, KV_HEADS * HEAD_DIM]
    value_ptr,  # the same
    HIDDEN: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,
    PDL: tl.constexpr,
):
    PAIRS: tl.constexpr = ROWS // 2
    HALF: tl.constexpr = HEAD_DIM // 2
    PROGRAMS: tl.constexpr = HALF // PAIRS  # of a head
    program = tl.program_id(0)
    head = program // PROGRAMS
    # Rows alternate between the halves of the head, so that a split gives the pairs.
    r = tl.arange(0, ROWS)
    pair = program % PROGRAMS * PAIRS + tl.arange(0, PAIRS)
    row = head * HEAD_DIM + program % PROGRAMS * PAIRS + r // 2 + r % 2 * HALF
    if PDL:
        gdc_launch_dependents()
    weights = load_rows(weight_ptr + row * HIDDEN, HIDDEN, PIECE)
    norm = load_vector(norm_ptr, HIDDEN, PIECE)
    first_bias = tl.load(bias_ptr + head * HEAD_DIM + pair).to(tl.float32)
    second_bias = tl.load(bias_ptr + head * HEAD_DIM + HALF + pair).to(tl.float32)
    if PDL:
        gdc_wait()
    position = tl.load(position_ptr)
    slot = tl.load(slot_ptr)
    x = load_vector(x_ptr, HIDDEN, PIECE)
    cos = tl.load(cos_sin_ptr + position * HEAD_DIM + pair)
    sin = tl.load(cos_sin_ptr + position * HEAD_DIM + HALF + pair)

    projected = normed_product(weights, x, norm, HIDDEN, EPS)
    first, second = tl.split(tl.reshape(projected, [PAIRS, 2]))
    first += first_bias
    second += second_bias
    turned_first = first * cos - second * sin
    turned_second = second * cos + first * sin

    # Where element 0 of the head goes; all lanes take the same way.
    key_at = slot * (KV_HEADS * HEAD_DIM)
    if head < HEADS:
        out = q_ptr + head * HEAD_DIM + pair
        tl.store(out, turned_first.to(q_ptr.dtype.element_ty))
        tl.store(out + HALF, turned_second.to(q_ptr.dtype.element_ty))
    elif head < HEADS + KV_HEADS:
        out = key_ptr + key_at + (head - HEADS) * HEAD_DIM + pair
        tl.store(out, turned_first.to(key_ptr.dtype.element_ty))
        tl.store(out + HALF, turned_second.to(key_ptr.dtype.element_ty))
    else:
        out = value_ptr + key_at + (head - HEADS - KV_HEADS) * HEAD_DIM + pair
        tl.store(out, first.to(value_ptr.dtype.element_ty))
        tl.store(out + HALF, second.to(value_ptr.dtype.element_ty))
