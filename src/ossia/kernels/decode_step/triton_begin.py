"""The begin of a decoding step in one launch; what it computes is in `reference.py`.

Bytes to move: a row of the embedding (5,760 for gpt-oss) and 4 bytes for each page, in and out.
Launch shape: one program a row. Nothing is shared between rows, but for padding, which repeats a
row: it takes a new page from its record and does not read what that row writes.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.decode_step.reference import (
    NEW_PAGE,
    PADDING,
    POSITION,
    SLOT,
    TOKEN,
    WINDOW_FIRST,
    WINDOW_PAGES,
    DecodeBuffers,
)

PAGES = 1024  # copied at a time


def begin_decode(
    buffers: DecodeBuffers, tables: Tensor, last_tokens: Tensor, embedding: Tensor
) -> None:
    """See `reference.py`."""
    batch = buffers.batch
    window_pages = batch.window.page_table.shape[1]
    _begin[(len(buffers.records),)](
        buffers.records,
        tables,
        last_tokens,
        embedding,
        buffers.x,
        buffers.slots,
        batch.token_ids,
        batch.positions,
        batch.full.page_table,
        batch.full.kv_lens,
        batch.full.slots,
        batch.window.page_table,
        batch.window.first_positions,
        batch.window.kv_lens,
        batch.window.slots,
        tables.stride(0),
        batch.full.page_table.stride(0),
        HIDDEN=embedding.shape[1],
        HIDDEN_PADDED=triton.next_power_of_2(embedding.shape[1]),
        PAGE=buffers.page_size,
        WINDOW_COUNT=window_pages,
        WINDOW_PADDED=triton.next_power_of_2(window_pages),
        PAGES=PAGES,
        num_warps=8,
    )


_SLOT, _POSITION, _TOKEN = tl.constexpr(SLOT), tl.constexpr(POSITION), tl.constexpr(TOKEN)
_NEW_PAGE, _PADDING = tl.constexpr(NEW_PAGE), tl.constexpr(PADDING)
_WINDOW_FIRST, _WINDOW_PAGES = tl.constexpr(WINDOW_FIRST), tl.constexpr(WINDOW_PAGES)


@triton.jit  # type: ignore[untyped-decorator]
def _begin(  # type: ignore[no-untyped-def]
    record_ptr,  # int32 [rows, _WINDOW_PAGES + WINDOW_COUNT]
    table_ptr,  # int32 [slots, pages]
    last_ptr,  # int32 [slots]
    embedding_ptr,  # [vocab, HIDDEN]
    x_ptr,  # [rows, HIDDEN]
    slot_ptr,  # int32 [rows]
    token_ptr,  # int64 [rows]
    position_ptr,  # int64 [rows]
    full_table_ptr,  # int32 [rows, pages]
    full_length_ptr,  # int32 [rows]
    full_slot_ptr,  # int64 [rows]
    window_table_ptr,  # int32 [rows, WINDOW_COUNT]
    window_first_ptr,  # int32 [rows]
    window_length_ptr,  # int32 [rows]
    window_slot_ptr,  # int64 [rows]
    table_stride,
    full_table_stride,
    HIDDEN: tl.constexpr,
    HIDDEN_PADDED: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW_COUNT: tl.constexpr,
    WINDOW_PADDED: tl.constexpr,
    PAGES: tl.constexpr,
):
    row = tl.program_id(0)
    record = record_ptr + row * (_WINDOW_PAGES + WINDOW_COUNT)
    slot = tl.load(record + _SLOT)
    position = tl.load(record + _POSITION)
    given = tl.load(record + _TOKEN)
    new_page = tl.load(record + _NEW_PAGE)
    window_first = tl.load(record + _WINDOW_FIRST)
    padding = tl.load(record + _PADDING)
    table = table_ptr + slot.to(tl.int64) * table_stride
    last = position // PAGE

    token = tl.where(given >= 0, given, tl.load(last_ptr + slot)).to(tl.int64)
    column = tl.arange(0, HIDDEN_PADDED)
    values = tl.load(embedding_ptr + token * HIDDEN + column, mask=column < HIDDEN)
    tl.store(x_ptr + row.to(tl.int64) * HIDDEN + column, values, mask=column < HIDDEN)

    out = full_table_ptr + row.to(tl.int64) * full_table_stride
    start = 0
    while start <= last:
        at = start + tl.arange(0, PAGES)
        pages = tl.load(table + at, mask=at <= last, other=0)
        pages = tl.where((at == last) & (new_page >= 0), new_page, pages)
        tl.store(out + at, pages, mask=at <= last)
        start += PAGES
    old_page = tl.load(table + last)
    full_page = tl.where(new_page >= 0, new_page, old_page)
    if (new_page >= 0) & (padding == 0):
        tl.store(table + last, new_page)

    place = tl.arange(0, WINDOW_PADDED)
    kept = tl.load(record + _WINDOW_PAGES + place, mask=place < WINDOW_COUNT, other=0)
    tl.store(window_table_ptr + row * WINDOW_COUNT + place, kept, mask=place < WINDOW_COUNT)
    window_page = tl.load(record + _WINDOW_PAGES + (position - window_first) // PAGE)

    kept_here = 1 - padding
    tl.store(slot_ptr + row, slot)
    tl.store(token_ptr + row, token)
    tl.store(position_ptr + row, position.to(tl.int64))
    tl.store(full_length_ptr + row, position + 1)
    tl.store(window_length_ptr + row, position + 1)
    tl.store(window_first_ptr + row, window_first)
    offset = position % PAGE
    tl.store(full_slot_ptr + row, (full_page * kept_here).to(tl.int64) * PAGE + offset)
    tl.store(window_slot_ptr + row, (window_page * kept_here).to(tl.int64) * PAGE + offset)
