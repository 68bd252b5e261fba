"""The experts' answers become one, on a GPU, and the next norm is taken on the way.

Computes out[t] = x[t] + sum_j shares[t, j] y[t k + j], in float32, in order of j, rounded once, and
if asked  normed[t] = out[t] / sqrt(mean(out[t]^2) + eps) * next_norm.

Bytes to move: (k + 2) * hidden * itemsize a token, one more row with the norm: 35 or 40 KB in
gpt-oss.
Launch shape: one program a token: its row stays in registers, so that the norm costs no launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options


def combine(
    x: Tensor,
    y: Tensor,
    shares: Tensor,
    next_norm: Tensor | None = None,
    eps: float = 1e-5,
    *,
    pdl: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`combine.combine` on a GPU.

    Args:
        x, y, shares, next_norm, eps: see there; contiguous.
        pdl: launch before the kernel ahead has ended (Hopper and later).

    Returns:
        The new residual stream, a new tensor like x, and its norm or None.
    """
    tokens, hidden = x.shape
    out = torch.empty_like(x)
    normed = None if next_norm is None else torch.empty_like(x)
    _combine[(tokens,)](
        x,
        y,
        shares,
        x if next_norm is None else next_norm,
        out,
        out if normed is None else normed,
        HIDDEN=hidden,
        CHOICES=shares.shape[1],
        EPS=eps,
        NORM=next_norm is not None,
        BLOCK=triton.next_power_of_2(hidden),
        PDL=pdl,
        num_warps=8,
        **pdl_options(pdl),
    )
    return out, normed


@fast_jit()
def _combine(  # type: ignore[no-untyped-def]
    x_ptr,  # [tokens, HIDDEN]
    y_ptr,  # [tokens * CHOICES, HIDDEN]
    share_ptr,  # float32 [tokens, CHOICES]
    norm_ptr,  # [HIDDEN], if NORM
    out_ptr,  # [tokens, HIDDEN]
    normed_ptr,  # [tokens, HIDDEN], if NORM
    HIDDEN: tl.constexpr,
    CHOICES: tl.constexpr,
    EPS: tl.constexpr,
    NORM: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    mask = place < HIDDEN
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    total = tl.load(x_ptr + token * HIDDEN + place, mask=mask, other=0.0).to(tl.float32)
    for j in tl.static_range(CHOICES):
        share = tl.load(share_ptr + token * CHOICES + j)
        row = y_ptr + (token * CHOICES + j) * HIDDEN + place
        total += share * tl.load(row, mask=mask, other=0.0).to(tl.float32)
    rounded = total.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + token * HIDDEN + place, rounded, mask=mask)
    if NORM:
        # The norm reads what was stored, rounding and all, as a kernel of its own would.
        wide = rounded.to(tl.float32)
        scale = tl.rsqrt(tl.sum(wide * wide, 0) / HIDDEN + EPS)
        weight = tl.load(norm_ptr + place, mask=mask, other=0.0).to(tl.float32)
        normed = (wide * scale * weight).to(normed_ptr.dtype.element_ty)
        tl.store(normed_ptr + token * HIDDEN + place, normed, mask=mask)
