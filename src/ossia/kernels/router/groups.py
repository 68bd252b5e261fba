"""Grouping: the (token, choice) pairs of a step, sorted by the expert they go to.

Pair p = token * k + choice. The sort is stable: an expert gets its pairs in order of token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Groups:
    """Which rows of the sorted pairs each expert works on. All of it stays on the device.

    A row is a place among the sorted pairs. A work item is one expert's next `rows_a_tile` rows or
    fewer; items come in order of expert and of row, and only the first `num_work` are meaningful.
    """

    offsets: Tensor  # int32 [experts + 1]: rows of expert e are offsets[e] .. offsets[e + 1] - 1
    pair_of_row: Tensor  # int32 [tokens * k]
    work: Tensor  # int32 [max_work, 4]: expert, first row, rows (1 .. rows_a_tile), 0
    num_work: Tensor  # int32 [1]
    rows_a_tile: int


def max_work(pairs: int, num_experts: int, rows_a_tile: int) -> int:
    """No routing of `pairs` pairs has more work items: each expert in use adds one partial tile."""
    return min(num_experts, pairs) + pairs // rows_a_tile


def group(chosen: Tensor, num_experts: int, rows_a_tile: int) -> Groups:
    """Sort the pairs by expert; on any device.

    Args:
        chosen: int32 [tokens, k], experts in 0 .. num_experts - 1.
        num_experts: of the layer.
        rows_a_tile: the most rows of a work item.
    """
    flat = chosen.flatten().long()
    device = flat.device
    items = max_work(len(flat), num_experts, rows_a_tile)
    counts = (flat[:, None] == torch.arange(num_experts, device=device)).sum(0)  # [experts]
    offsets = torch.zeros(num_experts + 1, dtype=torch.int64, device=device)
    offsets[1:] = counts.cumsum(0)
    tiles = (counts + rows_a_tile - 1) // rows_a_tile  # work items of each expert
    ends = tiles.cumsum(0)
    item = torch.arange(items, device=device)
    expert = torch.searchsorted(ends, item, right=True).clamp(max=num_experts - 1)
    first = offsets[expert] + (item - (ends - tiles)[expert]) * rows_a_tile
    rows = (offsets[expert + 1] - first).clamp(max=rows_a_tile)
    work = torch.stack((expert, first, rows, torch.zeros_like(rows)), dim=1)
    work = torch.where((item < ends[-1])[:, None], work, 0)
    return Groups(
        offsets=offsets.int(),
        pair_of_row=flat.argsort(stable=True).int(),
        work=work.int(),
        num_work=ends[-1:].int(),
        rows_a_tile=rows_a_tile,
    )
