"""Norm and router logits of one token. The expert kernels find the top k themselves.

Computes normed = x / sqrt(mean(x^2) + eps) * norm, rounded to x's type, and
logits[e] = b[e] + sum_k w[e, k] normed[k], in float32.

Bytes to move: 2 experts hidden, 0.2 MB for 32 experts: what counts is the time from the end of the
kernel before to the start of the next one, about 2 us.

Launch shape: a program an expert, which norms the whole vector for itself: waiting for another
program would cost more. Its weights are in registers before it waits for x. Each program writes its
part of `normed`, a multiple of 8 elements (16 bytes in bfloat16).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options

DEFAULT_WARPS = 8


def route_one(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    warps: int = DEFAULT_WARPS,
    pdl: bool = False,
) -> tuple[Tensor, Tensor]:
    """`reference.route_logits` for one token.

    Args:
        x: [1, hidden]. All tensors are contiguous.
        norm, weight, bias, eps: see the reference.
        warps: a program.
        pdl: launch before the kernel ahead has ended (Hopper and later).

    Returns:
        normed: [1, hidden], of x's type.
        logits: float32 [experts].
    """
    experts, hidden = weight.shape
    assert x.shape == (1, hidden)
    normed = torch.empty_like(x)
    logits = torch.empty(experts, dtype=torch.float32, device=x.device)
    _route_one[(experts,)](
        x,
        norm,
        weight,
        bias,
        normed,
        logits,
        HIDDEN=hidden,
        PADDED=triton.next_power_of_2(hidden),
        PART=triton.cdiv(triton.cdiv(hidden, experts), 8) * 8,
        EPS=eps,
        PDL=pdl,
        num_warps=warps,
        **pdl_options(pdl),
    )
    return normed, logits


@fast_jit()
def _route_one(  # type: ignore[no-untyped-def]
    x_ptr,  # [HIDDEN]
    norm_ptr,  # [HIDDEN]
    weight_ptr,  # [experts, HIDDEN]
    bias_ptr,  # [experts]
    normed_ptr,  # [HIDDEN]
    logit_ptr,  # float32 [experts]
    HIDDEN: tl.constexpr,
    PADDED: tl.constexpr,
    PART: tl.constexpr,  # elements of normed that a program writes
    EPS: tl.constexpr,
    PDL: tl.constexpr,
):
    expert = tl.program_id(0)
    k = tl.arange(0, PADDED)
    inside = k < HIDDEN
    if PDL:
        gdc_launch_dependents()
    weight = tl.load(weight_ptr + expert * HIDDEN + k, mask=inside, other=0.0)
    norm = tl.load(norm_ptr + k, mask=inside, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + expert).to(tl.float32)
    if PDL:
        gdc_wait()
    x = tl.load(x_ptr + k, mask=inside, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, axis=0) / HIDDEN + EPS)
    normed = (x * scale * norm).to(normed_ptr.dtype.element_ty)
    logit = tl.sum(normed.to(tl.float32) * weight.to(tl.float32), axis=0) + bias
    tl.store(logit_ptr + expert, logit)
    tl.store(normed_ptr + k, normed, mask=inside & (k // PART == expert))
