"""Logits of one token: the last norm and the head in one kernel.

Computes logits[r] = (sum_k w[r, k] norm[k] x[k]) / sqrt(mean(x^2) + eps), in float32.

Bytes to move: the head, 2 vocab hidden, 1.16 GB in gpt-oss: 386 us at 3 TB/s.

Launch shape: see `linear/triton_one.py`. Rows of 2880 columns in three pieces of 1024, eight rows a
program: 46 KB in flight for each of the programs on a multiprocessor.
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

DEFAULT = MatVecShape(rows=8, piece=1024, warps=4)


def logits_one(
    x: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    *,
    shape: MatVecShape = DEFAULT,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Logits of the next token, float32 [1, vocab]: RMSNorm(x) W^T, rounded nowhere in between.

    Args:
        x: [1, hidden], the residual stream after the last layer. All tensors are contiguous.
        norm: [hidden], the weight of the last RMSNorm.
        eps: of the norm.
        weight: [vocab, hidden]; vocab is a multiple of `shape.rows`.
        shape: how the rows are cut into programs.
        pdl: launch before the kernel ahead has ended (Hopper and later).
        out: where the logits go; None: a new tensor.
    """
    vocab, hidden = weight.shape
    assert x.shape == (1, hidden)
    assert vocab % shape.rows == 0
    logits = torch.empty((1, vocab), dtype=torch.float32, device=x.device) if out is None else out
    _logits_one[(vocab // shape.rows,)](
        x,
        norm,
        weight,
        logits,
        HIDDEN=hidden,
        EPS=eps,
        ROWS=shape.rows,
        PIECE=shape.columns(hidden),
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    return logits


@fast_jit()
def _logits_one(  # type: ignore[no-untyped-def]
    x_ptr,  # [HIDDEN]
    norm_ptr,  # [HIDDEN]
    weight_ptr,  # [vocab, HIDDEN]
    logit_ptr,  # float32 [vocab]
    HIDDEN: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if PDL:
        gdc_launch_dependents()
    # 64 bits: 579 million offsets here, and four times as many would not fit 32.
    weights = load_rows(weight_ptr + row.to(tl.int64) * HIDDEN, HIDDEN, PIECE)
    norm = load_vector(norm_ptr, HIDDEN, PIECE)
    if PDL:
        gdc_wait()
    x = load_vector(x_ptr, HIDDEN, PIECE)
    tl.store(logit_ptr + row, normed_product(weights, x, norm, HIDDEN, EPS))
