"""The output projection of attention for one token, with bias and residual.

Computes out[r] = x[r] + b[r] + sum_k w[r, k] mixed[k], in float32, rounded once.

Bytes to move: the weight, 2 hidden heads head_dim, 23.6 MB in gpt-oss: 7.9 us at 3 TB/s.

Launch shape: see `linear/triton_one.py`. Rows have 4096 columns there, which 8 warps take in two
loads of 16 bytes a thread; four rows a program, 720 programs, of which an H100 holds 528 at a time.
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
    pdl_options,
    product,
)

DEFAULT = MatVecShape(rows=4, piece=4096, warps=8)


def project_out_one(
    x: Tensor,
    mixed: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    shape: MatVecShape = DEFAULT,
    pdl: bool = False,
) -> Tensor:
    """`reference.project_out` for one token; the result is a new tensor [1, hidden].

    Args:
        x: [1, hidden]. All tensors are contiguous.
        mixed: [1, heads * head_dim] or [1, heads, head_dim].
        weight, bias: see the reference. hidden is a multiple of `shape.rows`.
        shape: how the rows are cut into programs.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    hidden, inputs = weight.shape
    assert x.shape == (1, hidden)
    assert mixed.numel() == inputs
    assert hidden % shape.rows == 0
    out = torch.empty_like(x)
    _project_out_one[(hidden // shape.rows,)](
        x,
        mixed,
        weight,
        bias,
        out,
        INPUTS=inputs,
        ROWS=shape.rows,
        PIECE=shape.columns(inputs),
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    return out


@fast_jit()
def _project_out_one(  # type: ignore[no-untyped-def]
    x_ptr,  # [hidden]
    mixed_ptr,  # [INPUTS]
    weight_ptr,  # [hidden, INPUTS]
    bias_ptr,  # [hidden]
    out_ptr,  # [hidden]
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    PIECE: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if PDL:
        gdc_launch_dependents()
    weights = load_rows(weight_ptr + row * INPUTS, INPUTS, PIECE)
    bias = tl.load(bias_ptr + row).to(tl.float32)
    if PDL:
        gdc_wait()
    mixed = load_vector(mixed_ptr, INPUTS, PIECE)
    x = tl.load(x_ptr + row).to(tl.float32)
    out = product(weights, mixed) + bias + x
    tl.store(out_ptr + row, out.to(out_ptr.dtype.element_ty))
