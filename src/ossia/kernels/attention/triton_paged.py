"""Paged attention on a GPU: prefill and decoding in one launch.

Computes, for token t and head h, with the keys j that t sees (see `reference.py`):
    s_j = scale q[t, h] . k_j
    out[t, h] = sum_j exp(s_j - m) v_j / (exp(sink_h - m) + sum_j exp(s_j - m)),  any m

Bytes to move: each visible key and value once per tile of queries and key-value head,
2 * keys * kv_heads * head_dim * itemsize a sequence and layer when decoding (2 KiB a key for
gpt-oss in bfloat16), plus q and out. Decoding is bound by that.

Launch shape: one program per tile of queries and key-value head, so that the `group` query heads
that share a key head share what is loaded. A tile has at least 16 rows (query, head of the group),
the least a matrix instruction takes: 1 query when every sequence decodes, 64 rows otherwise. Tiles
are numbered without asking the GPU how long the sequences are: sequence s starts at tile
query_starts[s] / queries_a_tile + s, which leaves room for its last, partial tile; programs without
work return at once. A program finds its sequence by bisection. It then walks over the keys KEYS at
a time with the running maximum and sum of the softmax, which start from the sink.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.attention.interface import Attend, write_cache
from ossia.kernels.fast_launch import fast_jit
from ossia.model.batch import LayerCache, PagedBatch

KEYS = 64  # keys a program loads at a time
LEAST_ROWS = 16  # of a matrix instruction
PREFILL_ROWS = 64  # (query, head) pairs in a tile when some sequence has more than one query


def prepare_attention(
    paged: PagedBatch, page_size: int, kv_heads: int, window: int | None
) -> Attend:
    """See `interface.py`."""

    def attend(
        q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, sinks: Tensor, scale: float
    ) -> Tensor:
        write_cache(cache, paged, k, v)
        tokens, heads, head_dim = q.shape
        group = heads // kv_heads
        queries = 1 if paged.max_query_len == 1 else max(1, PREFILL_ROWS // group)
        sequences = len(paged.kv_lens)
        q = q.contiguous()
        out = torch.empty_like(q)
        tiles = tokens // queries + sequences
        _attend[(tiles, kv_heads)](
            q,
            cache.keys,
            cache.values,
            out,
            sinks,
            paged.page_table,
            paged.first_positions,
            paged.kv_lens,
            paged.query_starts,
            sequences,
            paged.page_table.stride(0),
            scale * _LOG2_E,
            HEADS=heads,
            KV_HEADS=kv_heads,
            HEAD_DIM=head_dim,
            PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
            PAGE=page_size,
            WINDOW=window or 0,
            QUERIES=queries,
            ROWS=max(LEAST_ROWS, triton.next_power_of_2(queries * group)),
            KEYS=KEYS,
            num_warps=4,
        )
        return out

    return attend


_LOG2_E = 1.4426950408889634  # exp(x) = exp2(x * log2(e)), and exp2 is one instruction
LOG2_E = tl.constexpr(_LOG2_E)


@fast_jit()
def _attend(  # type: ignore[no-untyped-def]
    q_ptr,  # [tokens, HEADS, HEAD_DIM]
    key_ptr,  # [pages, PAGE, KV_HEADS, HEAD_DIM]
    value_ptr,  # the same
    out_ptr,  # like q
    sink_ptr,  # [HEADS]
    table_ptr,  # int32 [sequences, pages]
    first_ptr,  # int32 [sequences]
    length_ptr,  # int32 [sequences]
    start_ptr,  # int32 [sequences + 1]
    sequences,
    table_stride,
    scale,  # times log2(e)
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,  # 0: none
    QUERIES: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
):
    tile = tl.program_id(0)
    kv_head = tl.program_id(1)
    GROUP: tl.constexpr = HEADS // KV_HEADS

    # The last sequence whose first tile is not after this one.
    low = 0
    high = sequences - 1
    while low < high:
        middle = (low + high + 1) // 2
        if tl.load(start_ptr + middle) // QUERIES + middle <= tile:
            low = middle
        else:
            high = middle - 1
    sequence = low

    begin = tl.load(start_ptr + sequence)
    count = tl.load(start_ptr + sequence + 1) - begin
    first_query = (tile - begin // QUERIES - sequence) * QUERIES
    if first_query >= count:
        return
    length = tl.load(length_ptr + sequence)
    first_kept = tl.load(first_ptr + sequence)

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, PADDED_DIM)
    query = first_query + row // GROUP
    head = kv_head * GROUP + row % GROUP
    row_mask = (row < QUERIES * GROUP) & (query < count)
    position = length - count + query
    q_offsets = ((begin + query).to(tl.int64) * HEADS + head)[:, None] * HEAD_DIM + dim[None, :]
    q_mask = row_mask[:, None] & (dim < HEAD_DIM)[None, :]
    q = tl.load(q_ptr + q_offsets, mask=q_mask, other=0.0)

    largest = tl.load(sink_ptr + head, mask=row_mask, other=0.0).to(tl.float32) * LOG2_E
    total = tl.full([ROWS], 1.0, tl.float32)
    mixed = tl.zeros([ROWS, PADDED_DIM], tl.float32)

    from_key = first_kept
    if WINDOW > 0:
        from_key = tl.maximum(first_kept, length - count + first_query - WINDOW + 1)
    to_key = tl.minimum(length, length - count + first_query + QUERIES)
    for start in range(from_key, to_key, KEYS):
        key = start + tl.arange(0, KEYS)
        key_mask = key < to_key
        relative = key - first_kept
        page = tl.load(
            table_ptr + tl.cast(sequence, tl.int64) * table_stride + relative // PAGE,
            mask=key_mask,
            other=0,
        )
        slot = page.to(tl.int64) * PAGE + relative % PAGE
        offsets = (slot * KV_HEADS + kv_head)[:, None] * HEAD_DIM + dim[None, :]
        mask = key_mask[:, None] & (dim < HEAD_DIM)[None, :]
        keys = tl.load(key_ptr + offsets, mask=mask, other=0.0)
        values = tl.load(value_ptr + offsets, mask=mask, other=0.0)

        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * scale  # [ROWS, KEYS]
        visible = (key[None, :] <= position[:, None]) & key_mask[None, :]
        if WINDOW > 0:
            visible = visible & (position[:, None] - key[None, :] < WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        shares = tl.exp2(scores - new_largest[:, None])
        shrink = tl.exp2(largest - new_largest)
        total = total * shrink + tl.sum(shares, 1)
        mixed = mixed * shrink[:, None]
        mixed += tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        largest = new_largest

    mixed = mixed / total[:, None]
    tl.store(out_ptr + q_offsets, mixed.to(out_ptr.dtype.element_ty), mask=q_mask)
