"""Logits of a few rows: RMSNorm(x) W^T in float32.

Computes logits[t, r] = sum_k w[r, k] n[t, k] for the normed, rounded rows n.

Bytes to move: the head, 2 vocab hidden, 1.16 GB in gpt-oss: 386 us at 3 TB/s.

Launch shape: see `linear/triton_few.py`: 3,142 programs of 64 rows, all columns, 16 tokens,
or half as many of 128 rows and up to 64 tokens.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_few import FewShape, ask_ahead, product, sources
from ossia.kernels.linear.triton_one import pdl_options
from ossia.kernels.rms_norm.triton_norm import rms_norm

MOST_ROWS_A_TILE = 128  # of the weight, in any default


def default_shape(rows: int) -> FewShape:
    """The fastest measured shape for this many rows."""
    if rows <= 16:
        return FewShape(rows=64, tokens=16, stages=8, tma=True)
    if rows <= 32:
        return FewShape(rows=128, tokens=32, stages=5, warps=8, tma=True)
    return FewShape(rows=128, tokens=64, stages=5, warps=8, tma=True)


def logits_few(
    x: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    *,
    shape: FewShape | None = None,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Logits of the next tokens, float32 [rows, vocab].

    Args:
        x: [rows, hidden], the residual stream after the last layer. All tensors are contiguous.
        norm: [hidden], the weight of the last RMSNorm.
        eps: of the norm.
        weight: [vocab, hidden]; vocab is a multiple of `shape.rows`.
        shape: how the product is cut into programs, without splits; None takes
            `default_shape`.
        pdl: launch before the kernel ahead has ended (Hopper and later).
        out: where the logits go, contiguous; None: a new tensor.
    """
    rows, hidden = x.shape
    vocab = len(weight)
    shape = shape or default_shape(rows)
    assert shape.splits == 1
    assert vocab % shape.rows == 0
    normed = rms_norm(x, norm, eps, pdl=pdl)
    logits = (
        torch.empty((rows, vocab), dtype=torch.float32, device=x.device) if out is None else out
    )
    weight_source, x_source = sources(weight, normed, shape)
    _logits[shape.grid(vocab, rows)](
        weight_source,
        weight,
        x_source,
        logits,
        rows,
        vocab,
        HIDDEN=hidden,
        ROWS=shape.rows,
        TOKENS=shape.tokens,
        COLUMNS=shape.columns,
        STAGES=shape.stages,
        TMA=shape.tma,
        AHEAD=shape.ahead if pdl else 0,
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    return logits


@fast_jit(do_not_specialize=["count"])
def _logits(  # type: ignore[no-untyped-def]
    weight,  # [vocab, HIDDEN], or a descriptor of it
    weight_ptr,  # the tensor itself
    x,  # [count, HIDDEN], normed, or a descriptor of it
    logit_ptr,  # float32 [count, vocab]
    count,
    vocab,
    HIDDEN: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    first_row = tl.program_id(0) * ROWS
    first_token = tl.program_id(2) * TOKENS
    row = first_row + tl.arange(0, ROWS)
    if PDL:
        gdc_launch_dependents()
        if AHEAD > 0:
            ask_ahead(weight_ptr, row, 0, HIDDEN, COLUMNS, AHEAD)
        gdc_wait()
    total = product(
        weight,
        x,
        first_row,
        row,
        first_token,
        count,
        0,
        HIDDEN,
        HIDDEN,
        ROWS,
        TOKENS,
        COLUMNS,
        STAGES,
        TMA,
    )
    token = first_token + tl.arange(0, TOKENS)
    out = logit_ptr + token.to(tl.int64)[None, :] * vocab + row[:, None]
    tl.store(out, total, mask=(token < count)[None, :])
