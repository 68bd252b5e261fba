"""Attention of many new tokens over a short window of cached keys, on a GPU: all keys at once.

Computes what `triton_prefill` does, for layers in which a token sees WINDOW keys:
    s_j = scale q[t, h] . k_j
    out[t, h] = sum_j exp(s_j - m) v_j / (exp(sink_h - m) + sum_j exp(s_j - m)),  any m

A tile of QUERIES queries sees WINDOW + QUERIES - 1 keys, few enough to have all their scores at the
same time. So there is no loop, no running maximum and nothing to rescale: the keys up to the first
query's own make one product, those of the other queries a small second one. Work and bytes a tile
of 16 queries and 8 heads: 144 keys for the 128 that each query sees; 36 KiB from the L2, as much as
the products last that go with them. What remains is instructions: a score costs about seven.

Launch shape: as in `triton_prefill`. Two programs of 8 warps share a processor, so that one's
loads hide behind the other's arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ossia.kernels.attention.triton_decode import LOG2_E
from ossia.kernels.fast_launch import fast_jit


# Tables and lengths may be views of a larger buffer, at any alignment: one variant serves all.
@fast_jit(
    do_not_specialize=[
        "table_ptr",
        "first_ptr",
        "length_ptr",
        "start_ptr",
        "skipped",
        "sequences",
        "table_stride",
    ]
)
def attend_window(  # type: ignore[no-untyped-def]
    q_ptr,  # [tokens, HEADS, HEAD_DIM]
    key_ptr,  # [pages, PAGE, KV_HEADS, HEAD_DIM]
    value_ptr,  # the same
    out_ptr,  # like q
    sink_ptr,  # [HEADS]
    table_ptr,  # int32 [sequences, pages]
    first_ptr,  # int32 [sequences]
    length_ptr,  # int32 [sequences]
    start_ptr,  # int32 [sequences + 1]
    skipped,  # tokens before the first of these sequences
    sequences,
    table_stride,
    scale,  # times log2(e)
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    WINDOW: tl.constexpr,
    QUERIES: tl.constexpr,
    FIRST: tl.constexpr,  # keys of the first product: a power of two, at least WINDOW and 16
    REST: tl.constexpr,  # keys of the second: a power of two, at least QUERIES - 1 and 16
):
    """One tile of queries, for the query heads of one key-value head."""
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    ROWS: tl.constexpr = QUERIES * GROUP

    sequence = find_sequence(start_ptr, skipped, sequences, tile, QUERIES)
    begin = tl.load(start_ptr + sequence)
    count = tl.load(start_ptr + sequence + 1) - begin
    # Positions count from the first that is kept, which is at the start of a page.
    first_kept = tl.load(first_ptr + sequence)
    length = tl.load(length_ptr + sequence) - first_kept
    first_query = (tile - (begin - skipped) // QUERIES - sequence) * QUERIES
    if first_query >= count:
        return
    first_position = length - count + first_query
    end = first_position + tl.minimum(QUERIES, count - first_query)  # keys that some query sees

    table_ptr += tl.cast(sequence, tl.int64) * table_stride
    # The first keys end with the first query's own, so that all queries see them as far as the
    # window goes; near the start of a sequence some have positions below zero. The other keys
    # follow, and windows of WINDOW >= QUERIES reach back to them. Either takes one comparison.
    first = first_position - FIRST + 1 + tl.arange(0, FIRST)
    rest = first_position + 1 + tl.arange(0, REST)
    first_exist = first >= 0
    rest_exist = (rest >= 0) & (rest < end)  # padding has positions below zero
    first_page = tl.load(table_ptr + first // PAGE, mask=first_exist, other=0)
    rest_page = tl.load(table_ptr + rest // PAGE, mask=rest_exist, other=0)

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    q_offsets = (row // GROUP * HEADS + row % GROUP)[:, None] * HEAD_DIM + dim[None, :]
    q_mask = (first_query + row // GROUP < count)[:, None]
    first_row = (begin + first_query).to(tl.int64) * HEADS + kv_head * GROUP
    q = tl.load(q_ptr + first_row * HEAD_DIM + q_offsets, mask=q_mask, other=0.0)
    sink = tl.load(sink_ptr + kv_head * GROUP + row % GROUP).to(tl.float32) * LOG2_E

    ROW: tl.constexpr = KV_HEADS * HEAD_DIM
    in_first = (first_page.to(tl.int64) * PAGE + first % PAGE)[:, None] * ROW
    in_rest = (rest_page.to(tl.int64) * PAGE + rest % PAGE)[:, None] * ROW
    in_first += kv_head * HEAD_DIM + dim[None, :]
    in_rest += kv_head * HEAD_DIM + dim[None, :]
    first_keys = tl.load(key_ptr + in_first, mask=first_exist[:, None], other=0.0)
    rest_keys = tl.load(key_ptr + in_rest, mask=rest_exist[:, None], other=0.0)
    first_values = tl.load(value_ptr + in_first, mask=first_exist[:, None], other=0.0)
    rest_values = tl.load(value_ptr + in_rest, mask=rest_exist[:, None], other=0.0)

    first_scores = tl.dot(q, tl.trans(first_keys), input_precision="ieee")
    rest_scores = tl.dot(q, tl.trans(rest_keys), input_precision="ieee")
    position = first_position + row // GROUP
    since = tl.maximum(position - WINDOW + 1, 0)
    first_scores = tl.where(first[None, :] >= since[:, None], first_scores, float("-inf"))
    rest_scores = tl.where(rest[None, :] <= position[:, None], rest_scores, float("-inf"))
    if QUERIES > WINDOW:
        rest_scores = tl.where(rest[None, :] >= since[:, None], rest_scores, float("-inf"))
    largest = tl.maximum(tl.max(first_scores, 1), tl.max(rest_scores, 1))
    top = tl.maximum(sink, largest * scale)
    first_shares = tl.exp2(first_scores * scale - top[:, None])
    rest_shares = tl.exp2(rest_scores * scale - top[:, None])
    total = tl.exp2(sink - top) + tl.sum(first_shares, 1) + tl.sum(rest_shares, 1)
    mixed = tl.dot(first_shares.to(q.dtype), first_values, input_precision="ieee")
    mixed = tl.dot(rest_shares.to(q.dtype), rest_values, mixed, input_precision="ieee")
    mixed = mixed * (1.0 / total)[:, None]
    out_ptr += first_row * HEAD_DIM
    tl.store(out_ptr + q_offsets, mixed.to(out_ptr.dtype.element_ty), mask=q_mask)


@triton.jit  # type: ignore[untyped-decorator]
def find_sequence(  # type: ignore[no-untyped-def]
    start_ptr, skipped, sequences, tile, QUERIES: tl.constexpr
):
    """The last sequence whose first tile is not after this one."""
    low = 0
    high = sequences - 1
    while low < high:
        middle = (low + high + 1) // 2
        if (tl.load(start_ptr + middle) - skipped) // QUERIES + middle <= tile:
            low = middle
        else:
            high = middle - 1
    return low
