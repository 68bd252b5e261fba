"""Paged attention in plain torch, with few calls per layer and no dependence on the batch.

The formula is that of `reference.py`. Keys are cut into blocks of KEY_BLOCK at fixed positions of
the sequence. Shares (exp(score - largest score)) are summed up and multiplied with the values block
by block, and blocks are added in order. What a token gets therefore depends, bit for bit, on its
own keys alone: not on the other sequences of the step, the chunk it came in, or freed pages.

Tokens that are alone in their sequence (decoding) go together: all blocks of all sequences are one
batched product. Longer runs (prefill) go a sequence and QUERY_TILE tokens at a time, which keeps
scores in the processor's cache. Either moves, per layer, each visible key and value once through a
gathered copy: 3 * 2 * kv_heads * head_dim * 4 bytes a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.kernels.attention.interface import Attend, write_cache
from ossia.model.batch import LayerCache, PagedBatch

KEY_BLOCK = 64  # keys; a window of 128 touches three blocks
QUERY_TILE = 64  # tokens
# Rows below this many take other paths in matrix libraries, with other rounding.
_LEAST_ROWS = 4

# Runs some tokens of the step: scaled queries [tokens, kv_heads, group, head_dim], keys and values
# [slots * kv_heads, head_dim], sinks [kv_heads, group], and where to put the result (like queries).
_Part = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]


def prepare_attention(
    paged: PagedBatch, page_size: int, kv_heads: int, window: int | None
) -> Attend:
    """See `interface.py`."""
    parts = _parts(paged, page_size, kv_heads, window)

    def attend(
        q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, sinks: Tensor, scale: float
    ) -> Tensor:
        write_cache(cache, paged, k, v)
        tokens, heads, head_dim = q.shape
        group = heads // kv_heads
        wide = torch.promote_types(q.dtype, torch.float32)
        scaled = (q.to(wide) * scale).view(tokens, kv_heads, group, head_dim)
        sinks = sinks.to(wide).view(kv_heads, group)
        if missing := -group % _LEAST_ROWS:
            scaled = torch.nn.functional.pad(scaled, (0, 0, 0, missing))
            sinks = torch.nn.functional.pad(sinks, (0, missing))
        out = torch.empty_like(scaled)
        for part in parts:
            part(scaled, cache.keys.view(-1, head_dim), cache.values.view(-1, head_dim), sinks, out)
        return out[:, :, :group].reshape(q.shape).to(q.dtype)

    return attend


def _parts(paged: PagedBatch, page_size: int, kv_heads: int, window: int | None) -> list[_Part]:
    starts = paged.query_starts.tolist()
    lengths = paged.kv_lens.tolist()
    places = _Places(paged, page_size, kv_heads)
    parts: list[_Part] = []
    single = [s for s, n in enumerate(lengths) if n and starts[s + 1] - starts[s] == 1]
    if single:
        parts.append(_decode(single, [starts[s] for s in single], paged, places, window))
    for s, length in enumerate(lengths):
        if not length:
            parts.append(_padding(starts[s], starts[s + 1]))
        elif starts[s + 1] - starts[s] > 1:
            parts.append(_prefill(s, starts[s], starts[s + 1], length, places, window))
    return parts


def _padding(begin: int, end: int) -> _Part:
    """Tokens that see no keys: sequences with kv_lens 0 are padding."""

    def part(q: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, out: Tensor) -> None:
        out[begin:end] = 0

    return part


class _Places:
    """Finds the row of a key or value in a cache viewed as [slots * kv_heads, head_dim]."""

    def __init__(self, paged: PagedBatch, page_size: int, kv_heads: int) -> None:
        self.device = paged.page_table.device
        self._table = paged.page_table.long()
        self._firsts = paged.first_positions.long()
        self._page_size, self._heads = page_size, torch.arange(kv_heads, device=self.device)

    def __call__(self, sequence: Tensor | int, positions: Tensor) -> Tensor:
        """positions: [..., keys] of `sequence` ([..., 1] or one) -> flat [... * kv_heads * keys]"""
        relative = positions - self._firsts[sequence]
        slots = self._table[sequence, relative // self._page_size] * self._page_size
        slots += relative % self._page_size
        rows = slots.unsqueeze(-2) * len(self._heads) + self._heads.unsqueeze(-1)
        return rows.flatten()


def _decode(
    sequences: list[int], rows: list[int], paged: PagedBatch, places: _Places, window: int | None
) -> _Part:
    """One token each of some sequences. n: sequences, blocks: all their key blocks, in order."""
    device = paged.kv_lens.device
    row = torch.tensor(rows, device=device)
    sequence = torch.tensor(sequences, device=device)
    last = paged.kv_lens.long()[sequence] - 1  # [n], the token's own position
    first = torch.zeros_like(last) if window is None else (last - window + 1).clamp(min=0)
    first_block = first // KEY_BLOCK
    counts = last // KEY_BLOCK - first_block + 1
    owner = torch.arange(len(sequences), device=device).repeat_interleave(counts)  # [blocks]
    ordinal = torch.arange(len(owner), device=device) - (counts.cumsum(0) - counts)[owner]
    positions = (first_block[owner] + ordinal).unsqueeze(-1) * KEY_BLOCK + torch.arange(
        KEY_BLOCK, device=device
    )  # [blocks, KEY_BLOCK]
    low, high = first[owner].unsqueeze(-1), last[owner].unsqueeze(-1)
    hidden = _hidden((positions >= low) & (positions <= high))[:, None, None]
    # Hidden keys are read where a visible one lies: their share is zero, and the value is finite.
    rows_of_keys = places(sequence[owner].unsqueeze(-1), positions.clamp(low, high))
    row_of_block = row[owner]

    def part(q: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, out: Tensor) -> None:
        kv_heads, group, head_dim = q.shape[1:]
        shape = (len(owner), kv_heads, group)
        flat = (len(owner) * kv_heads, -1, head_dim)
        k = keys.index_select(0, rows_of_keys).view(flat).to(q.dtype)
        v = values.index_select(0, rows_of_keys).view(flat).to(q.dtype)
        queries = q.index_select(0, row_of_block).view(flat)
        scores = torch.bmm(queries, k.transpose(1, 2)).view(*shape, KEY_BLOCK)
        scores += hidden
        largest = sinks.expand(len(row), kv_heads, group).clone()
        index = owner[:, None, None].expand(shape)
        largest.scatter_reduce_(0, index, scores.amax(-1), "amax")
        shares = (scores - largest.index_select(0, owner).unsqueeze(-1)).exp_()
        total = (sinks - largest).exp_().index_add_(0, owner, shares.sum(-1))
        weighted = torch.bmm(shares.view(-1, group, KEY_BLOCK), v).view(*shape, head_dim)
        gathered = q.new_zeros(len(row), kv_heads, group, head_dim).index_add_(0, owner, weighted)
        out.index_copy_(0, row, gathered.div_(total.unsqueeze(-1)))

    return part


def _prefill(
    sequence: int, begin: int, end: int, length: int, places: _Places, window: int | None
) -> _Part:
    """Tokens begin .. end - 1 of the step, the last ones of a sequence of `length` tokens."""
    device = places.device
    before = length - end  # position = token + before
    reach = length if window is None else window
    first_key = max(0, begin + before - reach + 1)
    base = first_key // KEY_BLOCK * KEY_BLOCK
    positions = torch.arange(base, _round_up(length), device=device)  # [keys]
    rows_of_keys = places(sequence, positions.clamp(first_key, length - 1))
    tiles = []
    for start in range(begin, end, QUERY_TILE):
        stop = min(start + QUERY_TILE, end)
        low = max(0, start + before - reach + 1) // KEY_BLOCK * KEY_BLOCK - base
        high = _round_up(stop + before) - base
        at = torch.arange(start + before, stop + before, device=device).unsqueeze(-1)
        distance = at - positions[low:high]  # [queries, keys]
        hidden = _hidden((distance >= 0) & (distance < reach)).unsqueeze(1)
        tiles.append(_Tile(start, stop, low, high, hidden))

    def part(q: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, out: Tensor) -> None:
        kv_heads, _, head_dim = q.shape[1:]
        k = keys.index_select(0, rows_of_keys).view(kv_heads, -1, head_dim).to(q.dtype)
        v = values.index_select(0, rows_of_keys).view(kv_heads, -1, head_dim).to(q.dtype)
        for t in tiles:
            _attend_tile(t, q, k[:, t.low : t.high], v[:, t.low : t.high], sinks, out)

    return part


@dataclass(frozen=True, slots=True)
class _Tile:
    """Tokens that attend together."""

    start: int  # first token of the step
    stop: int  # one past the last
    low: int  # first gathered key, at a block's start
    high: int  # one past the last, at a block's end
    hidden: Tensor  # [queries, 1, keys]: 0, or -inf where a query does not see a key


def _attend_tile(t: _Tile, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, out: Tensor) -> None:
    queries = t.stop - t.start
    kv_heads, group, head_dim = q.shape[1:]
    rows = q[t.start : t.stop].transpose(0, 1).reshape(kv_heads, queries * group, head_dim)
    scores = torch.bmm(rows, k.transpose(1, 2))  # [kv_heads, queries * group, keys]
    scores.view(kv_heads, queries, group, -1).add_(t.hidden)
    sinks = sinks.unsqueeze(1).expand(-1, queries, -1).reshape(kv_heads, queries * group)
    largest = torch.maximum(scores.amax(-1), sinks)
    shares = scores.sub_(largest.unsqueeze(-1)).exp_()
    total = (sinks - largest).exp_()
    gathered = torch.zeros_like(rows)
    for block in range(0, t.high - t.low, KEY_BLOCK):
        some = shares[:, :, block : block + KEY_BLOCK]
        total += some.sum(-1)
        gathered += torch.bmm(some, v[:, block : block + KEY_BLOCK])
    gathered /= total.unsqueeze(-1)
    out[t.start : t.stop] = gathered.view(kv_heads, queries, group, head_dim).transpose(0, 1)


def _hidden(visible: Tensor) -> Tensor:
    """What to add to scores: 0 where visible, -inf elsewhere. float32, like `visible`."""
    zeros = torch.zeros(visible.shape, dtype=torch.float32, device=visible.device)
    return zeros.masked_fill_(~visible, float("-inf"))


def _round_up(keys: int) -> int:
    return -(-keys // KEY_BLOCK) * KEY_BLOCK
