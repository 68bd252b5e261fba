"""The least logit that top_k and top_p keep in each row, without sorting the vocabulary.

Computes, for the allowed logits x of a row and w = 2 ** ((x - M) * scale), M = max x:
    t_k = the k-th largest x; t_p = the largest x whose tokens >= it hold top_p of the mass of
    those >= t_k; the threshold is the larger of both.

Bytes to move: every logit twice, 8 * rows * vocabulary (140 us at 256 rows and 3 TB/s).

Launch shape: five small launches, none of which depends on the data for its size.
 1. `_measure`, a program a row: M, the mass, and how far below M a threshold can lie. The k-th
    largest of the chunks' maxima is no more than t_k; and tokens with w < (1 - top_p) mass / vocab
    hold too little together to reach into the nucleus.
 2. `_count`, a program per chunk and row: how many logits fall into each of 256 equal bins of that
    range; what lies below it shares the last bin.
 3. `_bracket`, a program a row: the bins in which the thresholds must be. For t_k the counts say
    it exactly; for t_p they bound the mass, since all weights of a bin are alike up to a factor.
 4. `_collect`, a program per chunk and row: the mass above these bins, and a list of the logits
    in them, in any order.
 5. `search`, a program a row: the thresholds among the listed logits (`triton_search.py`).
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from ossia.kernels.sampling.interface import Rows
from ossia.kernels.sampling.triton_chunks import allowed_chunk, bins_of
from ossia.kernels.sampling.triton_launch import Launcher
from ossia.kernels.sampling.triton_search import search

CAPACITY = 32768  # logits listed a row
TILE = 4096  # listed logits compared at a time
SEARCH_WARPS = 16
BINS = 256  # equal parts of the range in which thresholds are searched


class Chunks(NamedTuple):
    """What the first pass found, and how the vocabulary is cut."""

    largest: Tensor  # float32, rows of a power of 2
    sums: Tensor  # the same, relative to the chunk's largest
    columns: int
    size: int  # tokens in a chunk
    number: int  # of chunks
    padded: int  # a power of 2


def search_thresholds(
    logits: Tensor,
    rows: Rows,
    table: Tensor,
    chunks: Chunks,
    launch: Launcher,
    *,
    bins: int = 0,
    tile: int = 0,
    warps: int = 0,
) -> Tensor:
    """float32 [rows, 4]: the row's largest logit, its mass, an internal step, the least to keep.

    The mass is relative to the largest logit; NaN if an allowed logit is not finite. The least is
    -inf in rows that have neither a top_k nor a top_p.

    Args:
        logits: float32 [rows, vocab].
        rows: parameters of each row; some row has a filter.
        table: int32 [capacity, words], the masks.
        chunks: what `_reduce` wrote.
        launch: launches, and keeps the scratch.
        bins, tile, warps: instead of BINS, TILE, SEARCH_WARPS; powers of 2.
    """
    bins, tile, warps = bins or BINS, tile or TILE, warps or SEARCH_WARPS
    count = len(rows.draws)
    found = launch.buffer("found", count * 4, logits)
    histogram = launch.buffer("histogram", count * bins, table)
    bracket = launch.buffer("bracket", count * 4, table)
    each_row = (count, 1, 1)
    each_chunk = (chunks.number, count, 1)
    sizes = {"VOCAB": chunks.columns, "CHUNKS": chunks.number, "CHUNKS_P2": chunks.padded}
    filters = (rows.scales, rows.top_ks, rows.top_ps)
    written = (found, histogram, bracket)
    launch(
        _measure,
        each_row,
        (chunks.largest, chunks.sums, *filters, *written),
        {**sizes, "BINS": bins},
        num_warps=4,
    )
    if not rows.searches:
        return found
    line = {"VOCAB": chunks.columns, "STRIDE": logits.stride(0), "WORDS": table.shape[1]}
    launch(
        _count,
        each_chunk,
        (logits, table, rows.masks, rows.top_ks, rows.top_ps, found, histogram),
        {**line, "CHUNK": chunks.size, "BINS": bins},
        num_warps=4,
    )
    launch(_bracket, each_row, (*filters, *written), {"BINS": bins}, num_warps=4)
    masses = launch.buffer("masses", count * chunks.padded, logits)
    listed = launch.buffer("listed", count * CAPACITY, logits)
    tensors = (logits, table, rows.masks, *filters, found, bracket, masses, listed)
    line |= {"CHUNKS_P2": chunks.padded, "CAPACITY": CAPACITY, "BINS": bins}
    launch(_collect, each_chunk, tensors, {**line, "CHUNK": chunks.size}, num_warps=4)
    launch(
        search,
        each_row,
        tensors,
        {**line, "CHUNK": tile, "CHUNKS": chunks.number},
        num_warps=warps,
    )
    return found


@triton.jit  # type: ignore[untyped-decorator]
def _measure(  # type: ignore[no-untyped-def]
    largest_ptr,  # float32 [rows, CHUNKS_P2]
    sum_ptr,  # float32 [rows, CHUNKS_P2]
    scale_ptr,  # float32 [rows]
    top_k_ptr,  # int32 [rows]
    top_p_ptr,  # float32 [rows]
    found_ptr,  # float32 [rows, 4]; written: largest, mass, bins a unit of logits, -inf
    histogram_ptr,  # int32 [rows, BINS]; zeroed
    bracket_ptr,  # int32 [rows, 4]; the last, the number of listed logits, is zeroed
    VOCAB: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_P2: tl.constexpr,
    BINS: tl.constexpr,
):
    row = tl.program_id(0)
    scale = tl.load(scale_ptr + row)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    index = tl.arange(0, CHUNKS_P2)
    at = row * CHUNKS_P2 + index
    largest = tl.load(largest_ptr + at, mask=index < CHUNKS, other=float("-inf"))
    sums = tl.load(sum_ptr + at, mask=index < CHUNKS, other=0.0)
    top = tl.max(largest, 0)
    shift = tl.where(top > float("-inf"), top, 0.0)
    mass = tl.sum((sums * tl.exp2((largest - shift) * scale)).to(tl.float64), 0).to(tl.float32)

    finite = largest > float("-inf")
    larger = tl.sum((largest[None, :] > largest[:, None]).to(tl.int32), 1)
    kth = tl.min(tl.where(finite & (larger < top_k), largest, float("inf")), 0)
    lowest = tl.min(tl.where(finite, largest, float("inf")), 0)
    enough = tl.sum(finite.to(tl.int32), 0) >= top_k
    # There is no such bound for a larger k: a guess, which only costs time where it is wrong.
    reach_k = tl.where(enough, shift - kth, 2.0 * (shift - lowest))
    reach_p = tl.log2(VOCAB / (tl.maximum(1.0 - top_p, 1e-7) * mass)) / scale
    reach = tl.where(top_k > 0, reach_k, reach_p)
    inverse = (BINS - 1) / tl.maximum(reach * 1.001, 1e-3)

    tl.store(found_ptr + row * 4, shift)
    tl.store(found_ptr + row * 4 + 1, mass)
    tl.store(found_ptr + row * 4 + 2, inverse)
    tl.store(found_ptr + row * 4 + 3, float("-inf"))
    bins = tl.arange(0, BINS)
    tl.store(histogram_ptr + row * BINS + bins, tl.zeros([BINS], tl.int32))
    tl.store(bracket_ptr + row * 4 + 3, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _count(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    table_ptr,  # int32 [capacity, WORDS]
    mask_ptr,  # int32 [rows]
    top_k_ptr,  # int32 [rows]
    top_p_ptr,  # float32 [rows]
    found_ptr,  # float32 [rows, 4]
    histogram_ptr,  # int32 [rows, BINS]; added to
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    BINS: tl.constexpr,
):
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if (tl.load(top_k_ptr + row) == 0) & (tl.load(top_p_ptr + row) >= 1.0):
        return
    mask_row = tl.load(mask_ptr + row)
    x = allowed_chunk(logits_ptr, table_ptr, mask_row, row, chunk, VOCAB, STRIDE, WORDS, CHUNK)
    place = bins_of(x, tl.load(found_ptr + row * 4), tl.load(found_ptr + row * 4 + 2), BINS)
    counts = tl.histogram(tl.reshape(place, [CHUNK]), BINS)
    target = histogram_ptr + row * BINS + tl.arange(0, BINS)
    tl.atomic_add(target, counts, mask=counts > 0, sem="relaxed")


@triton.jit  # type: ignore[untyped-decorator]
def _bracket(  # type: ignore[no-untyped-def]
    scale_ptr,  # float32 [rows]
    top_k_ptr,  # int32 [rows]
    top_p_ptr,  # float32 [rows]
    found_ptr,  # float32 [rows, 4]
    histogram_ptr,  # int32 [rows, BINS]
    bracket_ptr,  # int32 [rows, 4]; written: first bin, last bin, logits in the bins before
    BINS: tl.constexpr,
):
    row = tl.program_id(0)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row).to(tl.float64)
    mass = tl.load(found_ptr + row * 4 + 1).to(tl.float64)
    octaves = tl.load(scale_ptr + row) / tl.load(found_ptr + row * 4 + 2)  # of w in a bin
    bins = tl.arange(0, BINS)
    counts = tl.load(histogram_ptr + row * BINS + bins)
    below = tl.cumsum(counts, 0)  # logits down to and with each bin
    reached_k = tl.min(tl.where(below >= top_k, bins, BINS - 1), 0)

    # Bounds of the weights of a bin, a little wider for the rounding of its edges.
    high = tl.exp2((1e-3 - bins.to(tl.float32)) * octaves)
    low = tl.exp2((-1.001 - bins.to(tl.float32)) * octaves)
    low = tl.where(bins == BINS - 1, 0.0, low)
    most = counts.to(tl.float64) * high.to(tl.float64)
    least = counts.to(tl.float64) * low.to(tl.float64)
    most_down = tl.cumsum(most, 0)
    least_down = tl.cumsum(least, 0)
    SLACK: tl.constexpr = 2e-6  # of the sums
    if top_k > 0:
        before = tl.sum(tl.where(bins < reached_k, counts, 0), 0)
        at_least = tl.sum(tl.where(bins < reached_k, least, 0.0), 0)
        edge = tl.sum(tl.where(bins == reached_k, low, 0.0), 0).to(tl.float64)
        at_least += (top_k - before).to(tl.float64) * edge
        wanted = top_p * at_least * (1 - SLACK)
        first = tl.min(tl.where(most_down >= wanted, bins, BINS - 1), 0)
        first = tl.where(top_p < 1.0, tl.minimum(first, reached_k), reached_k)
        last = reached_k
    else:
        # What the bins after a bin hold bounds its cumulative mass from the other side.
        most_after = tl.sum(most, 0) - most_down
        least_after = tl.sum(least, 0) - least_down
        most_down = tl.minimum(most_down, mass - least_after)
        least_down = tl.maximum(least_down, mass - most_after)
        first = tl.min(tl.where(most_down >= (top_p - SLACK) * mass, bins, BINS - 1), 0)
        last = tl.min(tl.where(least_down >= (top_p + SLACK) * mass, bins, BINS - 1), 0)
        last = tl.maximum(first, last)
    tl.store(bracket_ptr + row * 4, first)
    tl.store(bracket_ptr + row * 4 + 1, last)
    tl.store(bracket_ptr + row * 4 + 2, tl.sum(tl.where(bins < first, counts, 0), 0))


@triton.jit  # type: ignore[untyped-decorator]
def _collect(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    table_ptr,  # int32 [capacity, WORDS]
    mask_ptr,  # int32 [rows]
    scale_ptr,  # float32 [rows]
    top_k_ptr,  # int32 [rows]
    top_p_ptr,  # float32 [rows]
    found_ptr,  # float32 [rows, 4]
    bracket_ptr,  # int32 [rows, 4]; the last counts listed logits
    mass_ptr,  # float32 [rows, CHUNKS_P2]; written: mass of each chunk before the bracket
    listed_ptr,  # float32 [rows, CAPACITY]; written as far as there is room
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS_P2: tl.constexpr,
    CAPACITY: tl.constexpr,
    BINS: tl.constexpr,
):
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if (tl.load(top_k_ptr + row) == 0) & (tl.load(top_p_ptr + row) >= 1.0):
        return
    mask_row = tl.load(mask_ptr + row)
    x = allowed_chunk(logits_ptr, table_ptr, mask_row, row, chunk, VOCAB, STRIDE, WORDS, CHUNK)
    x = tl.reshape(x, [CHUNK])
    largest = tl.load(found_ptr + row * 4)
    place = bins_of(x, largest, tl.load(found_ptr + row * 4 + 2), BINS)
    first = tl.load(bracket_ptr + row * 4)
    last = tl.load(bracket_ptr + row * 4 + 1)
    weights = tl.exp2((x - largest) * tl.load(scale_ptr + row))
    mass = tl.sum(tl.where(place < first, weights, 0.0), 0)
    tl.store(mass_ptr + row * CHUNKS_P2 + chunk, mass)
    inside = (place >= first) & (place <= last) & (x > float("-inf"))
    count = tl.sum(inside.to(tl.int32), 0)
    if count > 0:
        start = tl.atomic_add(bracket_ptr + row * 4 + 3, count, sem="relaxed")
        to = start + tl.cumsum(inside.to(tl.int32), 0) - 1
        tl.store(
            listed_ptr + tl.cast(row, tl.int64) * CAPACITY + to, x, mask=inside & (to < CAPACITY)
        )
