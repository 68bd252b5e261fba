"""The begin of a decoding step on the device, from one small record a row.

The host knows where a row's next token goes, but often not yet which token it is: that was sampled
by the step before, and is fed back on the device. For row r with its record:

    token = record.token, or last_tokens[slot] where that is -1
    x[r] = embedding[token]; slots[r] = slot
    positions[r] = position, kv_lens[r] = position + 1
    tables[slot, position // page] = new_page, where that is not -1
    full.page_table[r] = tables[slot] up to and with the page of the position
    full.slots[r], window.slots[r] = where the new key and value go
    window.page_table[r], window.first_positions[r] = as recorded

A row of padding repeats a real row, so that it computes the same and asks for no other experts; its
keys go to the scratch page 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.model.batch import ForwardBatch, PagedBatch

# Columns of a record, int32; the window's pages follow.
SLOT, POSITION, TOKEN, NEW_PAGE, WINDOW_FIRST, PADDING, WINDOW_PAGES = range(7)


@dataclass(frozen=True, slots=True)
class DecodeBuffers:
    """What a step of up to `rows` decoding sequences reads and writes, at fixed addresses."""

    records: Tensor  # int32 [rows, WINDOW_PAGES + window pages of a sequence]
    x: Tensor  # [rows, hidden]
    slots: Tensor  # int32 [rows]
    batch: ForwardBatch  # of `rows` sequences with a token each
    page_size: int

    def first(self, rows: int) -> DecodeBuffers:
        """The same memory, as for this many rows."""
        b = self.batch
        return DecodeBuffers(
            self.records[:rows],
            self.x[:rows],
            self.slots[:rows],
            ForwardBatch(
                token_ids=b.token_ids[:rows],
                positions=b.positions[:rows],
                full=_first(b.full, rows),
                window=_first(b.window, rows),
                logit_rows=b.logit_rows[:rows],
            ),
            self.page_size,
        )


def _first(paged: PagedBatch, rows: int) -> PagedBatch:
    return PagedBatch(
        slots=paged.slots[:rows],
        page_table=paged.page_table[:rows],
        first_positions=paged.first_positions[:rows],
        kv_lens=paged.kv_lens[:rows],
        query_starts=paged.query_starts[: rows + 1],
        max_query_len=1,
        max_kv_len=paged.max_kv_len,
    )


def decode_buffers(
    rows: int,
    *,
    max_pages: int,
    window_pages: int,
    page_size: int,
    hidden_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> DecodeBuffers:
    """Buffers for `rows` sequences of at most `max_pages` pages, `window_pages` in the window."""

    def paged(pages: int) -> PagedBatch:
        return PagedBatch(
            slots=torch.zeros(rows, dtype=torch.int64, device=device),
            page_table=torch.zeros(rows, pages, dtype=torch.int32, device=device),
            first_positions=torch.zeros(rows, dtype=torch.int32, device=device),
            kv_lens=torch.zeros(rows, dtype=torch.int32, device=device),
            query_starts=torch.arange(rows + 1, dtype=torch.int32, device=device),
            max_query_len=1,
            max_kv_len=max_pages * page_size,
        )

    return DecodeBuffers(
        records=torch.zeros(rows, WINDOW_PAGES + window_pages, dtype=torch.int32, device=device),
        x=torch.zeros(rows, hidden_size, dtype=dtype, device=device),
        slots=torch.zeros(rows, dtype=torch.int32, device=device),
        batch=ForwardBatch(
            token_ids=torch.zeros(rows, dtype=torch.int64, device=device),
            positions=torch.zeros(rows, dtype=torch.int64, device=device),
            full=paged(max_pages),
            window=paged(window_pages),
            logit_rows=torch.arange(rows, dtype=torch.int64, device=device),
        ),
        page_size=page_size,
    )


def begin_decode(
    buffers: DecodeBuffers, tables: Tensor, last_tokens: Tensor, embedding: Tensor
) -> None:
    """Fill the buffers from their records.

    Args:
        buffers: `records` are read, all else is written.
        tables: int32 [slots, max_pages], the full pages of every running sequence; updated.
        last_tokens: int32 [slots].
        embedding: [vocab, hidden].
    """
    batch, page = buffers.batch, buffers.page_size
    for r, record in enumerate(buffers.records.tolist()):
        slot, position = record[SLOT], record[POSITION]
        token = record[TOKEN] if record[TOKEN] >= 0 else int(last_tokens[slot])
        at = position // page
        if record[NEW_PAGE] >= 0:
            tables[slot, at] = record[NEW_PAGE]
        first = record[WINDOW_FIRST]
        pages = record[WINDOW_PAGES:]
        full_page = int(tables[slot, at])
        window_page = pages[(position - first) // page]
        if record[PADDING]:
            full_page = window_page = 0
        buffers.x[r] = embedding[token]
        buffers.slots[r] = slot
        batch.token_ids[r] = token
        batch.positions[r] = position
        batch.full.page_table[r, : at + 1] = tables[slot, : at + 1]
        batch.window.page_table[r] = buffers.records[r, WINDOW_PAGES:]
        batch.window.first_positions[r] = first
        for paged, found in ((batch.full, full_page), (batch.window, window_page)):
            paged.kv_lens[r] = position + 1
            paged.slots[r] = found * page + position % page
