"""Norm, router and choice of experts for many tokens in one launch.

Computes n = x / sqrt(mean(x^2) + eps) * norm, rounded;  logits = n R^T + b in float32;  the k
largest, ties to the lower expert;  their softmax.

Bytes to move: 2 * hidden * itemsize a token (11.5 KB in gpt-oss) and, for each program, the router
from the L2: 2 * experts * hidden, 184 or 737 KB.

Launch shape: one program for 16 or 32 tokens and all experts. It reads its tokens twice, the second
time from the L2: for the mean square, then to norm and multiply, 128 or 256 columns at a time, by
matrix instructions with tokens as the M side. The choice happens in registers. A step of few tokens
has few such programs, and each takes its time to draw the router: see `triton_few.py` for those.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options
from ossia.kernels.router.reference import Routed
from ossia.kernels.thresholds import ROUTE_LARGE_TILES


@dataclass(frozen=True, slots=True)
class RouteShape:
    """How the routing of many tokens is cut into programs."""

    tokens: int  # a program; a power of two, at least 16
    columns: int = 64  # at a time; a power of two
    stages: int = 4  # of loads in flight
    warps: int = 4


def default_shape(tokens: int) -> RouteShape:
    """The fastest measured shape for this many tokens."""
    if tokens >= ROUTE_LARGE_TILES:
        return RouteShape(tokens=32, columns=128, stages=3)
    return RouteShape(tokens=16, columns=256, stages=3)


def route_many(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    k: int,
    *,
    shape: RouteShape | None = None,
    pdl: bool = False,
) -> Routed:
    """`reference.route` on a GPU.

    Args:
        x: [tokens, hidden]. All tensors are contiguous; hidden is a multiple of 16.
        norm, weight, bias, eps, k: see the reference.
        shape: how the tokens are cut into programs; None takes `default_shape`.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    tokens, hidden = x.shape
    experts = len(weight)
    assert hidden % 16 == 0
    assert k <= experts
    shape = shape or default_shape(tokens)
    normed = torch.empty_like(x)
    shares = torch.empty((tokens, k), dtype=torch.float32, device=x.device)
    chosen = torch.empty((tokens, k), dtype=torch.int32, device=x.device)
    _route[(triton.cdiv(tokens, shape.tokens),)](
        x,
        norm,
        weight,
        bias,
        normed,
        shares,
        chosen,
        tokens,
        HIDDEN=hidden,
        EXPERTS=experts,
        BINS=max(16, triton.next_power_of_2(experts)),
        CHOICES=k,
        EPS=eps,
        TOKENS=shape.tokens,
        COLUMNS=shape.columns,
        STAGES=shape.stages,
        PDL=pdl,
        num_warps=shape.warps,
        **pdl_options(pdl),
    )
    return Routed(normed, shares, chosen)


@fast_jit(do_not_specialize=["count"])
def _route(  # type: ignore[no-untyped-def]
    x_ptr,  # [count, HIDDEN]
    norm_ptr,  # [HIDDEN]
    weight_ptr,  # [EXPERTS, HIDDEN]
    bias_ptr,  # [EXPERTS]
    normed_ptr,  # [count, HIDDEN]
    share_ptr,  # float32 [count, CHOICES]
    chosen_ptr,  # int32 [count, CHOICES]
    count,
    HIDDEN: tl.constexpr,
    EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    CHOICES: tl.constexpr,
    EPS: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    PDL: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    expert = tl.arange(0, BINS)
    k = tl.arange(0, COLUMNS)
    present = (token < count)[:, None]
    known = (expert < EXPERTS)[:, None]
    x_ptrs = x_ptr + token.to(tl.int64)[:, None] * HIDDEN + k[None, :]
    normed_ptrs = normed_ptr + token.to(tl.int64)[:, None] * HIDDEN + k[None, :]
    weight_ptrs = weight_ptr + expert[:, None] * HIDDEN + k[None, :]
    bias = tl.load(bias_ptr + expert, mask=expert < EXPERTS, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()

    squares = tl.zeros([TOKENS, COLUMNS], tl.float32)
    for start in tl.range(0, HIDDEN, COLUMNS, num_stages=STAGES):
        inside = (start + k < HIDDEN)[None, :]
        wide = tl.load(x_ptrs + start, mask=present & inside, other=0.0).to(tl.float32)
        squares += wide * wide
    scale = tl.rsqrt(tl.sum(squares, 1) / HIDDEN + EPS)[:, None]

    logits = tl.zeros([TOKENS, BINS], tl.float32)
    for start in tl.range(0, HIDDEN, COLUMNS, num_stages=STAGES):
        inside = start + k < HIDDEN
        mask = present & inside[None, :]
        wide = tl.load(x_ptrs + start, mask=mask, other=0.0).to(tl.float32)
        norm = tl.load(norm_ptr + start + k, mask=inside, other=0.0).to(tl.float32)
        weights = tl.load(weight_ptrs + start, mask=known & inside[None, :], other=0.0)
        normed = (wide * scale * norm[None, :]).to(weights.dtype)
        tl.store(normed_ptrs + start, normed, mask=mask)
        logits = tl.dot(normed, tl.trans(weights), logits, input_precision="ieee")
    logits += bias[None, :]

    logits = tl.where(logits == logits, logits, float("-inf"))
    taken = (expert >= EXPERTS)[None, :] & (token >= 0)[:, None]
    parts = ()
    experts = ()
    largest = tl.zeros([TOKENS], tl.float32)
    total = tl.zeros([TOKENS], tl.float32)
    for j in tl.static_range(CHOICES):
        value, chosen = next_largest(logits, taken, expert, BINS)
        taken = taken | (expert[None, :] == chosen[:, None])
        if j == 0:
            largest = value
        part = tl.exp(value - largest)
        total += part
        parts = parts + (part,)  # type: ignore[assignment]  # noqa: RUF005 (unknown to Triton)
        experts = experts + (chosen,)  # type: ignore[assignment]  # noqa: RUF005 (unknown to Triton)
    for j in tl.static_range(CHOICES):
        at = token.to(tl.int64) * CHOICES + j
        tl.store(chosen_ptr + at, experts[j], mask=token < count)
        tl.store(share_ptr + at, parts[j] / total, mask=token < count)


@triton.jit  # type: ignore[untyped-decorator]
def next_largest(logits, taken, expert, BINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The largest logit of each row that is not taken, and its expert: the lowest of equals.

    Some expert is always found, so that numbers stay in range whatever the logits are, as long as
    they are not NaN.
    """
    open_ = tl.where(taken, float("-inf"), logits)
    value = tl.max(open_, 1)
    fits = (open_ == value[:, None]) & (taken == 0)
    return value, tl.min(tl.where(fits, expert[None, :], BINS), 1)
