"""Steps with prompts of few tokens, with all that differs from step to step at fixed addresses.

Launched one by one, the operations of such a step take the host longer than the GPU. So that CUDA
graphs can hold them, everything is padded: tokens to the size of a bucket, sequences to
`SEQUENCES`. The tokens of padding are one more sequence, which sees no keys: its own all go to the
scratch page 0, over each other, and what they leave there must not reach the experts, where rows of
padding decide in which order the sums of other rows are taken. The host sends one block of integers
a step; pages of the full pool are taken from the tables that decoding uses too.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.kv_cache import CacheConfig
from ossia.engine.runner import UNKNOWN
from ossia.engine.step_plan import ScheduledSequence
from ossia.model.batch import ForwardBatch, PagedBatch

SIZES = (32, 64, 96, 128, 192, 256, 384, 512)  # tokens of a step, padding included
SEQUENCES = 64  # of which one is padding
# Keys of a decoding sequence beyond which a step is not worth it: prompts' attention walks over
# them in one program, attention of decoding in many.
FAR = 8192
_STAGES = 3  # host blocks in turn: two steps may be on their way


@dataclass(frozen=True, slots=True)
class _Block:
    """The integers of a step, on the host (numpy) or on the device (torch): views of one memory."""

    tokens: Any  # int64 [tokens]: UNKNOWN where the step before samples it
    positions: Any  # int64 [tokens]
    full_slots: Any  # int64 [tokens]: where new keys go
    window_slots: Any  # int64 [tokens]
    seats: Any  # int64 [tokens]: of each token's sequence
    sequence_seats: Any  # int32 [sequences]
    kv_lens: Any  # int32 [sequences]
    window_firsts: Any  # int32 [sequences]
    starts: Any  # int32 [sequences + 1]: query_starts
    rows: Any  # int32 [sequences]: tokens after which one is sampled
    sampled_seats: Any  # int32 [sequences]
    window_tables: Any  # int32 [sequences, window pages]

    @staticmethod
    def sizes(window_pages: int) -> tuple[int, int]:
        """int64 and int32 numbers, the second even."""
        narrow = 6 * SEQUENCES + 1 + SEQUENCES * window_pages
        return 5 * SIZES[-1], narrow + narrow % 2

    @classmethod
    def of(cls, wide: Any, narrow: Any) -> _Block:
        """Views of int64 and int32 memory."""
        longs = [wide[i * SIZES[-1] : (i + 1) * SIZES[-1]] for i in range(5)]
        ends = np.cumsum([SEQUENCES] * 3 + [SEQUENCES + 1] + [SEQUENCES] * 2).tolist()
        parts = [narrow[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        pages = (len(narrow) - ends[-1]) // SEQUENCES
        table = narrow[ends[-1] : ends[-1] + SEQUENCES * pages].reshape(SEQUENCES, pages)
        fields: list[Any] = [*longs, *parts, table]
        return cls(*fields)


class SmallSteps:
    """What such steps read. On one stream, which also runs what `batch` returns."""

    def __init__(
        self, cache: CacheConfig, tables: Tensor, last_tokens: Tensor, device: torch.device
    ) -> None:
        """
        Args:
            cache: sizes of the pools.
            tables: int32 [seats, pages], the full pages of running sequences.
            last_tokens: int32 [seats], what was sampled last.
            device: of the tensors.
        """
        self._page_size = cache.page_size
        self._window = cache.sliding_window
        self._tables = tables
        self._last_tokens = last_tokens
        self._device = device
        self._window_pages = cache.window_pages_per_sequence + SIZES[-1] // cache.page_size + 1
        wide, narrow = _Block.sizes(self._window_pages)
        pin = device.type == "cuda"
        self._stages = [
            torch.zeros(wide + narrow // 2, dtype=torch.int64, pin_memory=pin)
            for _ in range(_STAGES)
        ]
        self._stage = 0
        self._sent = torch.zeros(wide + narrow // 2, dtype=torch.int64, device=device)
        self._there = _Block.of(self._sent[:wide], self._sent[wide:].view(torch.int32))
        self._wide = wide
        self._zeros = torch.zeros(SEQUENCES, dtype=torch.int32, device=device)

    def takes(self, sequences: Sequence[ScheduledSequence]) -> bool:
        """Whether a step of these sequences fits, and is worth it."""
        if len(sequences) >= SEQUENCES:
            return False
        return sum(item.num_tokens for item in sequences) <= SIZES[-1] and all(
            (item.num_tokens > 1 or item.start < FAR)
            and len(item.pages.window) - self._out_of_reach(item) <= self._window_pages
            for item in sequences
        )

    def _out_of_reach(self, item: ScheduledSequence) -> int:
        """How many of the window's pages the step's tokens do not see."""
        first = max(0, item.start - self._window + 1) // self._page_size
        return max(0, first - item.pages.window_start)

    def fill(self, sequences: Sequence[ScheduledSequence], tokens: int) -> None:
        """Send a step, padded to `tokens`. The tables must have the sequences' pages already."""
        stage = self._stages[self._stage]
        self._stage = (self._stage + 1) % _STAGES
        numbers = stage.numpy()
        block = _Block.of(numbers[: self._wide], numbers[self._wide :].view(np.int32))
        at = sampled = 0
        for i, item in enumerate(sequences):
            seat, after = item.request.seat, at + item.num_tokens
            self._put_tokens(block, slice(at, after), item)
            block.sequence_seats[i] = seat
            block.kv_lens[i] = item.start + item.num_tokens
            skipped = self._out_of_reach(item)
            block.window_firsts[i] = (item.pages.window_start + skipped) * self._page_size
            kept = np.frombuffer(item.pages.window, np.int32)[skipped:]
            block.window_tables[i, : len(kept)] = kept
            block.window_tables[i, len(kept) :] = 0
            block.starts[i] = at
            if item.samples:
                block.rows[sampled], block.sampled_seats[sampled] = after - 1, seat
                sampled += 1
            at = after
        count = len(sequences)
        self._put_padding(block, slice(at, tokens))
        block.starts[count] = at
        block.starts[count + 1 :] = tokens
        for of_sequences in (
            block.sequence_seats,
            block.kv_lens,
            block.window_firsts,
            block.window_tables,
        ):
            of_sequences[count:] = 0
        self._sent.copy_(stage, non_blocking=True)

    def _put_tokens(self, block: _Block, place: slice, item: ScheduledSequence) -> None:
        request, pages, start, count, _ = item
        size, window_start = self._page_size, item.pages.window_start
        block.seats[place] = request.seat
        if count == 1:  # most are; numpy would take as long as for many
            number, rest = divmod(start, size)
            block.tokens[place] = request.tokens[start] if start < len(request.tokens) else UNKNOWN
            block.positions[place] = start
            written = start >= pages.full_write_start
            block.full_slots[place] = pages.full[number] * size + rest if written else rest
            block.window_slots[place] = pages.window[number - window_start] * size + rest
            return
        positions = np.arange(start, start + count)
        page, offset = positions // size, positions % size

        def slots(table: array[int], first: int) -> NDArray[np.int64]:
            pages_of = np.frombuffer(table, np.int32)[page - first].astype(np.int64)
            return pages_of * size + offset

        block.tokens[place] = request.tokens[start : start + count]
        block.positions[place] = positions
        full = slots(pages.full, 0)
        # Already in shared pages: the scratch page 0 takes them.
        block.full_slots[place] = np.where(positions < pages.full_write_start, offset, full)
        block.window_slots[place] = slots(pages.window, window_start)

    def _put_padding(self, block: _Block, place: slice) -> None:
        slots = np.arange(place.stop - place.start) % self._page_size
        block.tokens[place] = 0
        block.seats[place] = 0
        block.positions[place] = 0
        block.full_slots[place] = slots
        block.window_slots[place] = slots

    def batch(self, tokens: int) -> ForwardBatch:
        """The step that was sent, of `tokens` tokens. Works on the device alone."""
        there = self._there
        sent, sampled = there.tokens[:tokens], self._last_tokens[there.seats[:tokens]].long()

        def paged(slots: Tensor, table: Tensor, firsts: Tensor) -> PagedBatch:
            return PagedBatch(
                slots=slots[:tokens],
                page_table=table,
                first_positions=firsts,
                kv_lens=there.kv_lens,
                query_starts=there.starts,
                max_query_len=tokens,
                max_kv_len=self._tables.shape[1] * self._page_size,
            )

        tables = self._tables.index_select(0, there.sequence_seats)
        return ForwardBatch(
            token_ids=torch.where(sent == UNKNOWN, sampled, sent),
            positions=there.positions[:tokens],
            full=paged(there.full_slots, tables, self._zeros),
            window=paged(there.window_slots, there.window_tables, there.window_firsts),
            logit_rows=there.rows,
        )

    def sampled(self, count: int) -> tuple[Tensor, Tensor]:
        """int32 [count] each: the tokens after which one is sampled, and their sequences' seats."""
        return self._there.rows[:count], self._there.sampled_seats[:count]
