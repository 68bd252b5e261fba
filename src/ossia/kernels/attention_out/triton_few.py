"""The output projection of attention for a few tokens, with bias and residual.

Computes out[t, r] = x[t, r] + b[r] + sum_k w[r, k] mixed[t, k], in float32, rounded once.

Bytes to move: the weight, 2 hidden heads head_dim, 23.6 MB in gpt-oss: 7.9 us at 3 TB/s.

Launch shape: see `linear/triton_few.py`. 2880 rows are only 45 tiles of 64 or 90 of 32, fewer than
multiprocessors, so more than two tokens a tile want splits; their partial sums meet in a second
launch, one program for 512 columns of a token.
"""

from __future__ import annotations

import torch
import triton
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

COLUMNS_A_PROGRAM = 512  # of the second launch


def default_shape(tokens: int) -> FewShape:
    """The fastest measured shape for this many tokens."""
    if tokens <= 16:
        return FewShape(rows=64, tokens=16, stages=8, splits=4, tma=True, ahead=4)
    if tokens <= 32:
        return FewShape(rows=64, tokens=32, stages=5, splits=4, ahead=4)
    return FewShape(rows=64, tokens=64, stages=5, splits=4, tma=True, ahead=4)


def project_out_few(
    x: Tensor,
    mixed: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    shape: FewShape | None = None,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_out` for few tokens; the result is a new tensor [tokens, hidden].

    Args:
        x: [tokens, hidden]. All tensors are contiguous.
        mixed: [tokens, heads * head_dim] or [tokens, heads, head_dim].
        weight, bias: see the reference. hidden is a multiple of `shape.rows`.
        shape: how the product is cut into programs; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    tokens = len(x)
    hidden, inputs = weight.shape
    shape = shape or default_shape(tokens)
    assert x.shape == (tokens, hidden)
    assert mixed.numel() == tokens * inputs
    assert hidden % shape.rows == 0
    out = torch.empty_like(x)
    partial = shape.partial(tokens, hidden, x.device) if shape.splits > 1 else None
    weight_source, mixed_source = sources(weight, mixed.view(tokens, inputs), shape)
    _project_few[shape.grid(hidden, tokens)](
        weight_source,
        weight,
        mixed_source,
        x,
        bias,
        out,
        out if partial is None else partial,
        tokens,
        INPUTS=inputs,
        HIDDEN=hidden,
        ROWS=shape.rows,
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
        add_residual(partial, x, bias, out, pdl=pdl)
    return out


def add_residual(
    partial: Tensor, x: Tensor, bias: Tensor | None, out: Tensor, *, pdl: bool = False
) -> None:
    """out = sum_s partial[s] + bias + x, summed in float32 in this order, rounded once.

    Args:
        partial: [splits, tokens, hidden], any float type. All tensors are contiguous.
        x: [tokens, hidden].
        bias: [hidden], or None where `partial` has it.
        out: [tokens, hidden], filled.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    splits, tokens, hidden = partial.shape
    _add[(tokens, triton.cdiv(hidden, COLUMNS_A_PROGRAM))](
        partial,
        x,
        x if bias is None else bias,
        out,
        tokens,
        HIDDEN=hidden,
        SPLITS=splits,
        BIAS=bias is not None,
        BLOCK=COLUMNS_A_PROGRAM,
        PDL=pdl,
        num_warps=2,
        **pdl_options(pdl),
    )


@fast_jit(do_not_specialize=["count"])
def _project_few(  # type: ignore[no-untyped-def]
    weight,  # [HIDDEN, INPUTS], or a descriptor of it
    weight_ptr,  # the tensor itself
    mixed,  # [count, INPUTS], or a descriptor of it
    x_ptr,  # [count, HIDDEN]
    bias_ptr,  # [HIDDEN]
    out_ptr,  # [count, HIDDEN]
    partial_ptr,  # float32 [SPLITS, count, HIDDEN], if SPLITS > 1
    count,
    INPUTS: tl.constexpr,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    SPLITS: tl.constexpr,
    TMA: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    first_row = tl.program_id(0) * ROWS
    first_token = tl.program_id(2) * TOKENS
    row = first_row + tl.arange(0, ROWS)
    begin, end = columns_of_split(tl.program_id(1), INPUTS, COLUMNS, SPLITS)
    if PDL:
        gdc_launch_dependents()
        if AHEAD > 0:
            ask_ahead(weight_ptr, row, begin, INPUTS, COLUMNS, AHEAD)
        gdc_wait()
    total = product(
        weight,
        mixed,
        first_row,
        row,
        first_token,
        count,
        begin,
        end,
        INPUTS,
        ROWS,
        TOKENS,
        COLUMNS,
        STAGES,
        TMA,
    )
    token = first_token + tl.arange(0, TOKENS)
    present = (token < count)[None, :]
    at = token[None, :] * HIDDEN + row[:, None]
    if SPLITS > 1:
        tl.store(partial_ptr + tl.program_id(1) * count * HIDDEN + at, total, mask=present)
    else:
        total += tl.load(bias_ptr + row).to(tl.float32)[:, None]
        total += tl.load(x_ptr + at, mask=present, other=0.0).to(tl.float32)
        tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=present)


@fast_jit(do_not_specialize=["count"])
def _add(  # type: ignore[no-untyped-def]
    partial_ptr,  # [SPLITS, count, HIDDEN]
    x_ptr,  # [count, HIDDEN]
    bias_ptr,  # [HIDDEN], if BIAS
    out_ptr,  # [count, HIDDEN]
    count,
    HIDDEN: tl.constexpr,
    SPLITS: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < HIDDEN
    total = tl.zeros([BLOCK], tl.float32)
    if BIAS:
        total += tl.load(bias_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = tl.program_id(0).to(tl.int64) * HIDDEN + column
    for split in tl.static_range(SPLITS):
        part = tl.load(partial_ptr + split * count * HIDDEN + at, mask=inside, other=0.0)
        total += part.to(tl.float32)
    total += tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, total.to(out_ptr.dtype.element_ty), mask=inside)
