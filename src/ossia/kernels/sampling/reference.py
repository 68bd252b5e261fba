"""What the sampling kernels compute, in float64 and by sorting; works on any device.

For logits x of a row, forbidden tokens -inf, M = max x and w = 2 ** ((x - M) * scale):
    top_k: keep x >= the k-th largest; top_p: of those keep x >= the largest t whose tokens x >= t
    hold top_p of the mass; min_p: keep w >= min_p;
    the token is the first whose cumulative kept weight, in token order, exceeds draw * total.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ossia.kernels.sampling.interface import Edits, Rows


def sample_rows(
    logits: Tensor,
    rows: Rows,
    table: Tensor,
    result: Tensor,
    slots: Tensor,
    last_tokens: Tensor,
    *,
    columns: int,
) -> None:
    """Choose a token for every row and write it to `result` and last_tokens[slots].

    Args:
        logits: float32 [rows, vocab].
        rows: parameters of each row.
        table: int32 [capacity, words]; bit i of word w allows token 32 * w + i.
        result: see `new_result`.
        slots: int32 [rows], where last_tokens takes the token; negative: nowhere.
        last_tokens: int32 [slots].
        columns: only tokens below this are considered.
    """
    for row in range(len(rows.draws)):
        x = allowed(logits[row, :columns], table, int(rows.masks[row]))
        token, top = _choose(x, rows, row)
        forced = int(rows.forced[row])
        result[0, row] = forced if forced >= 0 else token
        result[1, row] = torch.tensor(top, dtype=torch.float32).view(torch.int32)
        if int(slots[row]) >= 0:
            last_tokens[slots[row]] = result[0, row]


def allowed(x: Tensor, table: Tensor, mask: int) -> Tensor:
    """x [columns], -inf where row `mask` of the table forbids."""
    if mask < 0:
        return x
    token = torch.arange(len(x), device=x.device)
    bits = (table[mask, token // 32] >> (token % 32)) & 1
    return torch.where(bits != 0, x, -math.inf)


def kept_weights(x: Tensor, rows: Rows, row: int) -> Tensor:
    """Weights float64 [columns] of the finite logits x, 0 for what the filters leave out."""
    scale, smallest = float(rows.scales[row]), float(rows.min_ps[row])
    top_k, top_p = int(rows.top_ks[row]), float(rows.top_ps[row])
    w = torch.exp2((x - x.max()).double() * scale)
    least = -math.inf
    if 0 < top_k < len(x):
        least = float(x.topk(top_k).values[-1])
    if top_p < 1.0:
        order = x.argsort(descending=True)
        mass = torch.where(x[order] >= least, w[order], 0.0).cumsum(0)
        reached = int(torch.searchsorted(mass, top_p * mass[-1]))
        least = max(least, float(x[order[min(reached, len(x) - 1)]]))
    return torch.where((x >= least) & (w >= smallest), w, 0.0)


def edit(logits: Tensor, edits: Edits, *, columns: int) -> None:
    """Penalties, then biases, then stop tokens held back, in place on logits [rows, vocab]."""
    for header, penalties in zip(edits.rows.tolist(), edits.penalties, strict=True):
        row, begin, seen, biased, stopped = header[:5]
        line = logits[row, :columns]
        tokens, counts = edits.tokens[begin:seen].long(), edits.values[begin:seen]
        repetition, frequency, presence = penalties[0], penalties[1], penalties[2]
        x = line[tokens]
        x = torch.where(x > 0, x / repetition, x * repetition)
        line[tokens] = x - counts * frequency - (counts > 0) * presence
        line[edits.tokens[seen:biased].long()] += edits.values[seen:biased]
        line[edits.tokens[biased:stopped].long()] = -math.inf


def _choose(x: Tensor, rows: Rows, row: int) -> tuple[int, float]:
    top = float(x.max())
    if bool(x.isnan().any()) or top == math.inf:
        return 0, math.nan
    if top == -math.inf:
        return 0, top
    draw = float(rows.draws[row])
    if draw < 0:
        return int(x.argmax()), top
    w = kept_weights(x, rows, row)
    sums = w.cumsum(0)
    above = (sums > draw * sums[-1]) & (w > 0)
    return int(above.nonzero()[0] if bool(above.any()) else w.nonzero()[-1]), top
