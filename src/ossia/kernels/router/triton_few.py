"""Routing and grouping for a few tokens: two short launches, each on many multiprocessors.

`_logits`: n = x / sqrt(mean(x^2) + eps) * norm, rounded;  logits = n R^T + b in float32.
`_choose`: the k largest of a token, ties to the lower expert;  their softmax;  row of every pair
    = #{pairs of lower experts} + #{earlier pairs of its expert}.

Bytes to move: 11.5 KB a token and the router, 184 or 737 KB in gpt-oss; from the L2, the router
once a token.

Launch shape: `_logits` has a program for 8 experts and 1 token, or 4 where there is much to draw
from the L2; it loads its rows of the router before it waits for the kernel ahead. `_choose` has a
program an expert: each makes the choice of all tokens, which is a tile of at most 64 x 128 logits,
then writes what concerns its own expert; no program waits for another.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import load_rows, load_vector, pdl_options, product
from ossia.kernels.router.cuda_route import fits, route_and_group_cuda
from ossia.kernels.router.groups import Groups
from ossia.kernels.router.reference import Routed
from ossia.kernels.router.triton_groups import empty_groups, group, write_work
from ossia.kernels.router.triton_many import next_largest, route_many
from ossia.kernels.thresholds import ROUTE_FEW_TOKENS, ROUTE_TRITON_TOKENS

EXPERTS_A_PROGRAM = 8
TOKENS_A_PROGRAM = {False: 1, True: 4}  # by more than MUCH_WORK logits
MUCH_WORK = 2048
PIECE = 1024  # columns of a tile
LOGITS_A_WARP = 128  # 4 a thread: with more, the code gets long, and it runs once


def route_and_group(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    k: int,
    rows_a_tile: int,
    *,
    pdl: bool = False,
) -> tuple[Routed, Groups]:
    """`reference.route` and `groups.group`, by the fastest kernels for the GPU.

    Args:
        x: [tokens, hidden]. All tensors are contiguous.
        norm, weight, bias, eps, k: see `reference.route`.
        rows_a_tile: the most rows of a work item.
        pdl: launch before the kernels ahead have ended (Hopper and later).
    """
    few = len(x) <= ROUTE_TRITON_TOKENS
    run = route_and_group_cuda if fits(x, len(weight), k) and not few else route_and_group_triton
    return run(x, norm, weight, bias, eps, k, rows_a_tile, pdl=pdl)


def route_and_group_triton(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    k: int,
    rows_a_tile: int,
    *,
    pdl: bool = False,
) -> tuple[Routed, Groups]:
    """The same on any GPU, in two launches for any number of tokens."""
    if len(x) > ROUTE_FEW_TOKENS:
        routed = route_many(x, norm, weight, bias, eps, k, pdl=pdl)
        return routed, group(routed.chosen, len(weight), rows_a_tile, pdl=pdl)
    tokens = len(x)
    experts = len(weight)
    normed, logits = route_logits(x, norm, weight, bias, eps, pdl=pdl)
    shares = torch.empty((tokens, k), dtype=torch.float32, device=x.device)
    chosen = torch.empty((tokens, k), dtype=torch.int32, device=x.device)
    groups = empty_groups(tokens * k, experts, rows_a_tile, x.device)
    # Three sizes of tile, so that few variants are compiled.
    block = 16 if tokens <= 16 else 32 if tokens <= 32 else ROUTE_FEW_TOKENS
    bins = triton.next_power_of_2(experts)
    _choose[(experts,)](
        logits,
        shares,
        chosen,
        groups.offsets,
        groups.pair_of_row,
        groups.work,
        groups.num_work,
        tokens,
        EXPERTS=experts,
        BINS=bins,
        CHOICES=k,
        ROWS_A_TILE=rows_a_tile,
        BLOCK=block,
        PDL=pdl,
        num_warps=min(16, max(4, block * bins // LOGITS_A_WARP)),
        **pdl_options(pdl),
    )
    return Routed(normed, shares, chosen), groups


def route_logits(
    x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor, eps: float, *, pdl: bool = False
) -> tuple[Tensor, Tensor]:
    """`reference.route_logits` on a GPU: normed [tokens, hidden], float32 [tokens, experts].

    Args:
        x: [tokens, hidden]. All tensors are contiguous.
        norm, weight, bias, eps: see the reference. The number of experts is a multiple of
            `EXPERTS_A_PROGRAM`, or a smaller power of two.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    tokens, hidden = x.shape
    experts = len(weight)
    tile = min(EXPERTS_A_PROGRAM, experts)
    assert experts % tile == 0
    normed = torch.empty_like(x)
    logits = torch.empty((tokens, experts), dtype=torch.float32, device=x.device)
    tokens_a_program = TOKENS_A_PROGRAM[tokens * experts > MUCH_WORK]
    _logits[(experts // tile, triton.cdiv(tokens, tokens_a_program))](
        x,
        norm,
        weight,
        bias,
        normed,
        logits,
        tokens,
        HIDDEN=hidden,
        EXPERTS=experts,
        EPS=eps,
        ROWS=tile,
        TOKENS=tokens_a_program,
        PIECE=min(PIECE, triton.next_power_of_2(hidden)),
        PDL=pdl,
        num_warps=4 if tokens_a_program == 1 else 8,
        **pdl_options(pdl),
    )
    return normed, logits


@fast_jit(do_not_specialize=["count"])
def _logits(  # type: ignore[no-untyped-def]
    x_ptr,  # [count, HIDDEN]
    norm_ptr,  # [HIDDEN]
    weight_ptr,  # [EXPERTS, HIDDEN]
    bias_ptr,  # [EXPERTS]
    normed_ptr,  # [count, HIDDEN]
    logit_ptr,  # float32 [count, EXPERTS]
    count,
    HIDDEN: tl.constexpr,
    EXPERTS: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    PIECE: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first_token = tl.program_id(1) * TOKENS
    if PDL:
        gdc_launch_dependents()
    weights = load_rows(weight_ptr + row * HIDDEN, HIDDEN, PIECE)
    norm = load_vector(norm_ptr, HIDDEN, PIECE)
    bias = tl.load(bias_ptr + row).to(tl.float32)
    if PDL:
        gdc_wait()
    for i in tl.static_range(TOKENS):
        # A program at the end may do the last token again, and writes the same.
        token = tl.minimum(first_token + i, count - 1)
        x = load_vector(x_ptr + token * HIDDEN, HIDDEN, PIECE)
        squares = tl.zeros([PIECE], tl.float32)
        for j in tl.static_range(len(x)):
            wide = x[j].to(tl.float32)
            squares += wide * wide
        scale = tl.rsqrt(tl.sum(squares, 0) / HIDDEN + EPS)
        normed = ()
        for j in tl.static_range(len(x)):
            wide = x[j].to(tl.float32) * scale * norm[j].to(tl.float32)
            tile = wide.to(x_ptr.dtype.element_ty)
            normed = normed + (tile,)  # type: ignore[assignment]  # noqa: RUF005 (unknown to Triton)
        tl.store(logit_ptr + token * EXPERTS + row, product(weights, normed) + bias)
        if tl.program_id(0) == 0:
            for j in tl.static_range(len(x)):
                k = j * PIECE + tl.arange(0, PIECE)
                tl.store(normed_ptr + token * HIDDEN + k, normed[j], mask=k < HIDDEN)


@fast_jit(do_not_specialize=["count"])
def _choose(  # type: ignore[no-untyped-def]
    logit_ptr,  # float32 [count, EXPERTS]
    share_ptr,  # float32 [count, CHOICES]
    chosen_ptr,  # int32 [count, CHOICES]
    offset_ptr,  # see `Groups`
    pair_ptr,
    work_ptr,
    num_work_ptr,
    count,
    EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    CHOICES: tl.constexpr,
    ROWS_A_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    own = tl.program_id(0)
    token = tl.arange(0, BLOCK)
    expert = tl.arange(0, BINS)
    present = token < count
    known = present[:, None] & (expert < EXPERTS)[None, :]
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    at = token[:, None] * EXPERTS + expert[None, :]
    logits = tl.load(logit_ptr + at, mask=known, other=float("-inf"))
    logits = tl.where(logits == logits, logits, float("-inf"))
    taken = (expert >= EXPERTS)[None, :] & (token >= 0)[:, None]
    largest = tl.zeros([BLOCK], tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    own_choice = tl.full([BLOCK], -1, tl.int32)  # which of its choices this expert is
    own_part = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(CHOICES):
        value, chosen = next_largest(logits, taken, expert, BINS)
        taken = taken | (expert[None, :] == chosen[:, None])
        if j == 0:
            largest = value
        part = tl.exp(value - largest)
        total += part
        own_choice = tl.where(chosen == own, j, own_choice)
        own_part = tl.where(chosen == own, part, own_part)
    counts = tl.sum((taken & known).to(tl.int32), 0)
    row = write_work(counts, own, offset_ptr, work_ptr, num_work_ptr, EXPERTS, BINS, ROWS_A_TILE)
    mine = present & (own_choice >= 0)
    pair = token * CHOICES + own_choice
    tl.store(pair_ptr + row + tl.cumsum(mine.to(tl.int32), 0) - 1, pair, mask=mine)
    tl.store(chosen_ptr + pair, tl.zeros_like(pair) + own, mask=mine)
    tl.store(share_ptr + pair, own_part / total, mask=mine)
