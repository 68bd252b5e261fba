"""Grouping on a GPU: a stable counting sort of pairs by expert, in one launch.

Computes, for pair p of expert e = chosen[p]:
    row(p) = #{p': chosen[p'] < e} + #{p' < p: chosen[p'] = e}

Bytes to move: 4 * pairs in and 4 * pairs out: 2 KB for 64 tokens, 256 KB for 8,192.

Launch shape: one program an expert, so that no program waits for another. Each counts all pairs by
expert, which gives its first row and its first work item; then it walks over the pairs again,
numbers its own by a running sum, and writes them. Experts times pairs are read, all from the L2:
at most 128 * 128 KB. Everything is written in a place known beforehand, so runs agree bit by bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.fast_launch import fast_jit
from ossia.kernels.linear.triton_one import pdl_options
from ossia.kernels.router.groups import Groups, max_work
from ossia.kernels.thresholds import GROUP_FEW_PAIRS, GROUP_SOME_PAIRS

BLOCKS = {  # up to so many pairs: pairs at a time, warps
    GROUP_FEW_PAIRS: (256, 2),
    GROUP_SOME_PAIRS: (1024, 4),
}
MANY_PAIRS = (4096, 8)


def empty_groups(pairs: int, num_experts: int, rows_a_tile: int, device: torch.device) -> Groups:
    """Groups to be filled by a kernel."""
    items = max_work(pairs, num_experts, rows_a_tile)
    return Groups(
        offsets=torch.empty(num_experts + 1, dtype=torch.int32, device=device),
        pair_of_row=torch.empty(pairs, dtype=torch.int32, device=device),
        work=torch.empty((items, 4), dtype=torch.int32, device=device),
        num_work=torch.empty(1, dtype=torch.int32, device=device),
        rows_a_tile=rows_a_tile,
    )


def group(
    chosen: Tensor,
    num_experts: int,
    rows_a_tile: int,
    *,
    block: tuple[int, int] | None = None,
    pdl: bool = False,
) -> Groups:
    """`groups.group` on a GPU; work items past `num_work` are left as they were.

    Args:
        chosen: int32 [tokens, k], contiguous, experts in 0 .. num_experts - 1.
        num_experts: of the layer.
        rows_a_tile: the most rows of a work item.
        block: pairs that a program takes at a time (a power of two), and its warps.
        pdl: launch before the kernel ahead has ended (Hopper and later).
    """
    pairs = chosen.numel()
    groups = empty_groups(pairs, num_experts, rows_a_tile, chosen.device)
    size, warps = block or default_block(pairs)
    _group[(num_experts,)](
        chosen,
        groups.offsets,
        groups.pair_of_row,
        groups.work,
        groups.num_work,
        pairs,
        EXPERTS=num_experts,
        BINS=triton.next_power_of_2(num_experts),
        ROWS_A_TILE=rows_a_tile,
        BLOCK=size,
        PDL=pdl,
        num_warps=warps,
        **pdl_options(pdl),
    )
    return groups


def default_block(pairs: int) -> tuple[int, int]:
    """The fastest measured block: pairs that a program takes at a time, and its warps."""
    return next((block for most, block in BLOCKS.items() if pairs <= most), MANY_PAIRS)


@fast_jit(do_not_specialize=["pairs"])
def _group(  # type: ignore[no-untyped-def]
    chosen_ptr,  # int32 [pairs]
    offset_ptr,  # int32 [EXPERTS + 1]
    pair_ptr,  # int32 [pairs]
    work_ptr,  # int32 [max_work, 4]
    num_work_ptr,  # int32 [1]
    pairs,
    EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    ROWS_A_TILE: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):
    expert = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, pairs, BLOCK):
        inside = start + place < pairs
        chosen = tl.load(chosen_ptr + start + place, mask=inside, other=0)
        counts += tl.histogram(chosen, BINS, mask=inside)
    row = write_work(counts, expert, offset_ptr, work_ptr, num_work_ptr, EXPERTS, BINS, ROWS_A_TILE)
    for start in range(0, pairs, BLOCK):
        inside = start + place < pairs
        chosen = tl.load(chosen_ptr + start + place, mask=inside, other=-1)
        mine = (chosen == expert).to(tl.int32)
        tl.store(pair_ptr + row + tl.cumsum(mine, 0) - 1, start + place, mask=mine == 1)
        row += tl.sum(mine, 0)


@triton.jit  # type: ignore[untyped-decorator]
def write_work(  # type: ignore[no-untyped-def]
    counts,  # int32 [BINS]: pairs of each expert
    expert,
    offset_ptr,
    work_ptr,
    num_work_ptr,
    EXPERTS: tl.constexpr,
    BINS: tl.constexpr,
    ROWS_A_TILE: tl.constexpr,
):
    """Write the expert's offset and work items, and the totals if it is the last; its first row."""
    ITEMS: tl.constexpr = 32  # written at a time
    bin_ = tl.arange(0, BINS)
    before = bin_ < expert
    tiles = (counts + ROWS_A_TILE - 1) // ROWS_A_TILE
    count = tl.sum(tl.where(bin_ == expert, counts, 0), 0)
    row = tl.sum(tl.where(before, counts, 0), 0)
    item = tl.sum(tl.where(before, tiles, 0), 0)
    own_items = (count + ROWS_A_TILE - 1) // ROWS_A_TILE
    tl.store(offset_ptr + expert, row)
    if expert == EXPERTS - 1:
        tl.store(offset_ptr + EXPERTS, row + count)
        tl.store(num_work_ptr, item + own_items)
    field = tl.arange(0, 4)[None, :]
    for start in range(0, own_items, ITEMS):
        i = (start + tl.arange(0, ITEMS))[:, None]
        done = i * ROWS_A_TILE
        rows = tl.minimum(count - done, ROWS_A_TILE)
        fields = tl.where(field == 0, expert, tl.where(field == 1, row + done, 0))
        fields = tl.where(field == 2, rows, fields)
        tl.store(work_ptr + (item + i) * 4 + field, fields, mask=(i < own_items) & (field < 4))
    return row
