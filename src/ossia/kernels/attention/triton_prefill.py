"""Attention of many new tokens over cached keys, on a GPU: chunks of prompts, and mixed steps.

Computes, for token t and head h, with the keys j that t sees (see `reference.py`):
    s_j = scale q[t, h] . k_j
    out[t, h] = sum_j exp(s_j - m) v_j / (exp(sink_h - m) + sum_j exp(s_j - m)),  any m

Work: 4 * head_dim operations a (token, head, visible key) on the matrix units, and an exponential,
of which an H100 does 16 a clock and processor against 4096 of the others: with heads of 64 both
take the same time. Bytes: keys and values come from the L2, 256 a key and tile, which tiles of 128
rows take 60 % of that time for and tiles of 64 rows all of it.

Launch shape: one program per tile of ROWS (query, head) rows and key-value head, all query heads of
a key-value head together, so that a tile spans few queries: little is wasted at the diagonal and at
the edges of a window. Tiles are numbered without asking the GPU how long the sequences are:
sequence s starts at tile query_starts[s] / queries_a_tile + s, which leaves room for its last,
partial tile. They start from the last, which sees the most keys; programs without work return at
once. A program walks over the keys KEYS at a time with the running maximum and sum of the softmax,
which start from the sink, and compares positions only for the keys that not all its queries see.
Programs share a processor, so that one's exponentials hide behind another's products.

Short windows have a kernel of their own, `triton_prefill_window`, and single tokens that come first
in the step another, `triton_decode`: here, one would fill 8 rows of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.attention.decode_scratch import DecodeScratch
from ossia.kernels.attention.shapes import check_shapes
from ossia.kernels.attention.triton_decode import LOG2_E, attend_decode
from ossia.kernels.attention.triton_prefill_window import attend_window, find_sequence
from ossia.kernels.fast_launch import fast_jit
from ossia.model.batch import LayerCache, PagedBatch


@dataclass(frozen=True, slots=True)
class PrefillConfig:
    """How the kernel is cut; the results agree up to rounding."""

    rows: int  # (query, head) pairs in a tile; a power of two, from 16 and the heads of a group up
    keys: int  # a program loads at a time; a power of two, a multiple of the page size
    warps: int
    stages: int  # blocks of keys in flight
    registers: int | None = None  # of a thread, at most; None: the compiler's choice
    at_once: bool = False  # a short window's keys are not walked over; `keys`, `stages` do nothing


FULL = PrefillConfig(rows=128, keys=64, warps=4, stages=3)
WINDOWED = PrefillConfig(rows=128, keys=64, warps=8, stages=3, registers=128, at_once=True)
WALKED = PrefillConfig(rows=64, keys=32, warps=4, stages=3)
AT_ONCE = 128  # keys in the longest window whose scores fit in the registers


def attend_prefill(
    q: Tensor,
    cache: LayerCache,
    paged: PagedBatch,
    sinks: Tensor,
    scale: float,
    window: int | None,
    *,
    scratch: DecodeScratch | None = None,
    config: PrefillConfig | None = None,
) -> Tensor:
    """Attention of a step's tokens over what the cache holds, themselves included.

    Any mix of sequences: new prompts, chunks that go on, single tokens. Those that come first cost
    what they cost when decoding, as far as `paged.num_decodes` says how many there are. A sequence
    with kv_lens 0 is padding, whatever its number of tokens: its rows become zero.

    Args:
        q: [tokens, heads, head_dim] contiguous, rotated.
        cache: keys and values, contiguous; those of the step are already in their slots.
        paged: the step. `slots` and the lengths known on the host are not read.
        sinks: [heads].
        scale: multiplies the scores; positive.
        window: how many keys a token sees, itself included; None: all.
        scratch: for as many sequences as decode; None: allocated where it is needed.
        config: how to cut the work; None: as measured best on an H100.

    Returns:
        [tokens, heads, head_dim], of q's type.

    Raises:
        ValueError: shapes that the kernel does not fit.
    """
    tokens, heads, head_dim = q.shape
    page_size, kv_heads = cache.keys.shape[1:3]
    if config is None:
        config = FULL if window is None else WINDOWED if window <= AT_ONCE else WALKED
    check_shapes(q, cache)
    out = torch.empty_like(q)
    skipped = paged.num_decodes
    if skipped:
        if scratch is None:
            device = q.device
            scratch = DecodeScratch.allocate(skipped, heads, kv_heads, head_dim, device, pdl=False)
        attend_decode(q[:skipped], cache, paged, sinks, scale, window, scratch, out=out[:skipped])
    sequences = len(paged.kv_lens) - skipped
    if not sequences:
        return out
    rows = max(config.rows, heads // kv_heads)
    queries = rows // (heads // kv_heads)
    grid = ((tokens - skipped) // queries + sequences, kv_heads)
    arguments = (
        q,
        cache.keys,
        cache.values,
        out,
        sinks,
        paged.page_table[skipped:],
        paged.first_positions[skipped:],
        paged.kv_lens[skipped:],
        paged.query_starts[skipped:],
        skipped,
        sequences,
        paged.page_table.stride(0),
        scale * _LOG2_E,
    )
    geometry = {"HEADS": heads, "KV_HEADS": kv_heads, "HEAD_DIM": head_dim, "PAGE": page_size}
    if config.at_once and window is not None and window <= AT_ONCE:
        attend_window[grid](
            *arguments,
            **geometry,
            WINDOW=window,
            QUERIES=queries,
            FIRST=max(16, triton.next_power_of_2(window)),
            REST=max(16, queries),
            num_warps=config.warps,
            maxnreg=config.registers,
        )
    else:
        _prefill[grid](
            *arguments,
            **geometry,
            WINDOW=window or 0,
            QUERIES=queries,
            KEYS=max(config.keys, page_size),
            num_warps=config.warps,
            num_stages=config.stages,
            maxnreg=config.registers,
        )
    return out


_LOG2_E = 1.4426950408889634  # exp(x) = exp2(x * log2(e)), and exp2 is one instruction


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
def _prefill(  # type: ignore[no-untyped-def]
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
    WINDOW: tl.constexpr,  # 0: none
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
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

    row = tl.arange(0, ROWS)
    dim = tl.arange(0, HEAD_DIM)
    q_offsets = (row // GROUP * HEADS + row % GROUP)[:, None] * HEAD_DIM + dim[None, :]
    q_mask = (first_query + row // GROUP < count)[:, None]
    first_row = (begin + first_query).to(tl.int64) * HEADS + kv_head * GROUP
    q = tl.load(q_ptr + first_row * HEAD_DIM + q_offsets, mask=q_mask, other=0.0)
    position = first_position + row // GROUP

    table_ptr += tl.cast(sequence, tl.int64) * table_stride
    key_ptr += kv_head * HEAD_DIM
    value_ptr += kv_head * HEAD_DIM
    largest = tl.load(sink_ptr + kv_head * GROUP + row % GROUP).to(tl.float32) * LOG2_E
    total = tl.full([ROWS], 1.0, tl.float32)
    mixed = tl.zeros([ROWS, HEAD_DIM], tl.float32)

    start = 0
    if WINDOW > 0:
        start = tl.maximum(first_position - WINDOW + 1, 0) // PAGE * PAGE
    seen_by_all = (first_position + 1) // KEYS * KEYS
    page = _load_pages(table_ptr, start, end, PAGE, KEYS)
    # One loop, whose loads stay in flight where the keys that only some see begin.
    for at in range(start, end, KEYS):
        next_page = _load_pages(table_ptr, at + KEYS, end, PAGE, KEYS)
        largest, total, mixed = _add_keys(
            q, largest, total, mixed, page, at, end, seen_by_all, position, key_ptr, value_ptr,
            scale, KV_HEADS, HEAD_DIM, PAGE, WINDOW, KEYS,
        )  # fmt: skip
        page = next_page

    mixed = mixed * (1.0 / total)[:, None]
    out_ptr += first_row * HEAD_DIM
    tl.store(out_ptr + q_offsets, mixed.to(out_ptr.dtype.element_ty), mask=q_mask)


@triton.jit  # type: ignore[untyped-decorator]
def _load_pages(  # type: ignore[no-untyped-def]
    table_ptr, start, end, PAGE: tl.constexpr, KEYS: tl.constexpr
):
    """The page of each of the keys start .. start + KEYS - 1, start at a page; 0 from `end` on."""
    key = tl.arange(0, KEYS)
    return tl.load(table_ptr + start // PAGE + key // PAGE, mask=key < end - start, other=0)


@triton.jit  # type: ignore[untyped-decorator]
def _add_keys(  # type: ignore[no-untyped-def]
    q, largest, total, mixed, page, start, end, seen_by_all, position, key_ptr, value_ptr, scale,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE: tl.constexpr, WINDOW: tl.constexpr,
    KEYS: tl.constexpr,
):  # fmt: skip
    """The running softmax with the keys start .. min(start + KEYS, end) - 1 joined to it."""
    key = tl.arange(0, KEYS)
    dim = tl.arange(0, HEAD_DIM)
    in_page = (key % PAGE)[:, None] * (KV_HEADS * HEAD_DIM) + dim[None, :]
    offsets = page.to(tl.int64)[:, None] * (PAGE * KV_HEADS * HEAD_DIM) + in_page
    exists = (key < end - start)[:, None]
    keys = tl.load(key_ptr + offsets, mask=exists, other=0.0)
    values = tl.load(value_ptr + offsets, mask=exists, other=0.0)
    scores = tl.dot(q, tl.trans(keys), input_precision="ieee")  # [ROWS, KEYS]
    # The least that a thread has to compute for each score: positions are not subtracted.
    if WINDOW > 0:
        last = (position - start)[:, None]
        visible = (key[None, :] <= last) & (key[None, :] > last - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
    elif start >= seen_by_all:
        last = (position - start)[:, None]
        scores = tl.where(key[None, :] <= last, scores, float("-inf"))
    top = tl.maximum(largest, tl.max(scores, 1) * scale)
    shares = tl.exp2(scores * scale - top[:, None])
    shrink = tl.exp2(largest - top)
    total = total * shrink + tl.sum(shares, 1)
    mixed = mixed * shrink[:, None]
    mixed = tl.dot(shares.to(values.dtype), values, mixed, input_precision="ieee")
    return top, total, mixed
