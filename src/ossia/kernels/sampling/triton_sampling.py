"""Tokens from logits on a GPU, in two launches where no row has filters.

Computes, for the allowed logits x of a row, M = max x and w = 2 ** ((x - M) * scale), the first
token whose cumulative weight exceeds draw * total, or the first with x = M. `reference.py` has
the whole definition.

Bytes to move: every logit once, 4 * rows * vocabulary (0.8 MB a row; 70 us at 256 rows and
3 TB/s), and 1/32 of that for each row with a mask.

Launch shape: (1) `_reduce`, one program per chunk of CHUNK tokens and row, writes the chunk's
largest logit m and the sum of 2 ** ((x - m) * scale); nothing is shared, so 1 row fills the GPU
and 256 rows run at the memory's speed. (2) `_pick`, one program a row, adds the sums up in
float64, finds the chunk where the cumulative sum passes the target (or the one with the largest
logit) and reads that chunk again. Sums inside a chunk are float32, so a draw that lands within
about 1e-7 of a boundary between tokens may fall on the other side of it.

A number that is not finite shows in the sums: 2 ** (NaN - m) and 2 ** (inf - inf) are NaN.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ossia.kernels.sampling.interface import Edits, Rows
from ossia.kernels.sampling.triton_chunks import allowed_chunk, keeps
from ossia.kernels.sampling.triton_filters import Chunks, search_thresholds
from ossia.kernels.sampling.triton_launch import Launcher

CHUNK = 2048  # tokens; 99 chunks of gpt-oss's vocabulary
EDITS = 256  # logits edited at a time by a program


def sample_rows(
    logits: Tensor,
    rows: Rows,
    table: Tensor,
    result: Tensor,
    slots: Tensor,
    last_tokens: Tensor,
    *,
    columns: int,
    launch: Launcher | None = None,
    chunk: int = CHUNK,
    warps: tuple[int, int] = (4, 8),
    pdl: bool = False,
    search: dict[str, int] | None = None,
) -> None:
    """See `reference.sample_rows`. Only launches kernels; logits are not changed.

    Args:
        launch: remembers kernels and scratch from call to call, on one stream.
        chunk: tokens a program, a power of 2 and at least 32.
        warps: of the two kernels.
        pdl: use programmatic dependent launch (compute capability 9.0 and later).
        search: keyword arguments of `search_thresholds`.
    """
    launch = launch or Launcher()
    count = len(rows.draws)
    chunks = -(-columns // chunk)
    padded = triton.next_power_of_2(chunks)
    largest = launch.buffer("largest", count * padded, logits)
    sums = launch.buffer("sums", count * padded, logits)
    shape = {"VOCAB": columns, "STRIDE": logits.stride(0), "WORDS": table.shape[1], "CHUNK": chunk}
    options = {"launch_pdl": True} if pdl else {}
    grid = (chunks, count, 1)
    described = (logits, table, rows.masks, rows.scales, rows.min_ps)

    filters = largest  # not read where there are none
    for filtered in (False, True)[: 1 + rows.filters]:
        if filtered:
            cut = Chunks(largest, sums, columns, chunk, chunks, padded)
            filters = search_thresholds(logits, rows, table, cut, launch, **(search or {}))
        launch(
            _reduce,
            grid,
            (*described, filters, largest, sums),
            {**shape, "CHUNKS_P2": padded, "FILTER": filtered, "PDL": pdl},
            num_warps=warps[0],
            **options,
        )
    launch(
        _pick,
        (count, 1, 1),
        (*described, filters, largest, sums, rows.draws, rows.forced, result, slots, last_tokens),
        {
            **shape,
            "RESULTS": result.stride(0),
            "CHUNKS": chunks,
            "CHUNKS_P2": padded,
            "FILTER": rows.filters,
            "PDL": pdl,
        },
        loose=2,
        num_warps=warps[1],
        **options,
    )


def edit(logits: Tensor, edits: Edits, *, columns: int) -> None:
    """See `reference.edit`: one program per edited row, each of its lists after the other."""
    _edit[(len(edits.rows),)](
        logits,
        edits.rows,
        edits.penalties,
        edits.tokens,
        edits.values,
        VOCAB=columns,
        STRIDE=logits.stride(0),
        BLOCK=EDITS,
        num_warps=4,
        enable_fp_fusion=False,  # the CPU rounds after every operation
    )


@triton.jit  # type: ignore[untyped-decorator]
def _reduce(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    table_ptr,  # int32 [capacity, WORDS]
    mask_ptr,  # int32 [rows]
    scale_ptr,  # float32 [rows]
    min_p_ptr,  # float32 [rows]
    filter_ptr,  # float32 [rows, 4], of `search_thresholds`, if FILTER
    largest_ptr,  # float32 [rows, CHUNKS_P2]; written unless FILTER
    sum_ptr,  # float32 [rows, CHUNKS_P2]; if FILTER of kept weights, relative to the row's largest
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS_P2: tl.constexpr,
    FILTER: tl.constexpr,
    PDL: tl.constexpr,
):
    chunk = tl.program_id(0)
    row = tl.program_id(1)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    scale = tl.load(scale_ptr + row)
    mask_row = tl.load(mask_ptr + row)
    x = allowed_chunk(logits_ptr, table_ptr, mask_row, row, chunk, VOCAB, STRIDE, WORDS, CHUNK)
    at = row * CHUNKS_P2 + chunk
    if FILTER:
        shift = tl.load(filter_ptr + row * 4)
        total = tl.load(filter_ptr + row * 4 + 1)
        weights = tl.exp2((x - shift) * scale)
        keep = keeps(x, weights, filter_ptr, min_p_ptr, row)
        kept = tl.sum(tl.where(keep, weights, 0.0))
        tl.store(sum_ptr + at, tl.where(total == total, kept, float("nan")))
    else:
        largest = tl.max(x)
        shift = tl.where(largest > float("-inf"), largest, 0.0)
        tl.store(largest_ptr + at, largest)
        tl.store(sum_ptr + at, tl.sum(tl.exp2((x - shift) * scale)))


# Slots may be a part of a larger tensor.
@triton.jit(do_not_specialize_on_alignment=["slot_ptr", "last_ptr"])  # type: ignore[untyped-decorator]
def _pick(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    table_ptr,  # int32 [capacity, WORDS]
    mask_ptr,  # int32 [rows]
    scale_ptr,  # float32 [rows]
    min_p_ptr,  # float32 [rows]
    filter_ptr,  # float32 [rows, 4], of `search_thresholds`, if FILTER
    largest_ptr,  # float32 [rows, CHUNKS_P2]
    sum_ptr,  # float32 [rows, CHUNKS_P2]
    draw_ptr,  # float64 [rows]
    forced_ptr,  # int32 [rows]
    result_ptr,  # int32 [2, RESULTS]
    slot_ptr,  # int32 [rows]
    last_ptr,  # int32 [slots]
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    RESULTS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_P2: tl.constexpr,
    FILTER: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    draw = tl.load(draw_ptr + row)
    scale = tl.load(scale_ptr + row)
    mask_row = tl.load(mask_ptr + row)
    forced = tl.load(forced_ptr + row)
    slot = tl.load(slot_ptr + row)

    index = tl.arange(0, CHUNKS_P2)
    inside = index < CHUNKS
    at = row * CHUNKS_P2 + index
    largest = tl.load(largest_ptr + at, mask=inside, other=float("-inf"))
    sums = tl.load(sum_ptr + at, mask=inside, other=0.0)
    top = tl.max(largest, 0)
    shift = tl.where(top > float("-inf"), top, 0.0)
    if not FILTER:
        sums = sums * tl.exp2((largest - shift) * scale)
    mass = sums.to(tl.float64)
    total = tl.sum(mass, 0)
    target = draw * total
    reached = tl.where(draw < 0, largest == top, (tl.cumsum(mass, 0) > target) & (sums > 0))
    first = tl.min(tl.where(reached, index, CHUNKS_P2), 0)
    # Rounding may lift the target up to the last sum, which nothing exceeds.
    chunk = tl.where(first < CHUNKS_P2, first, tl.max(tl.where(sums > 0, index, 0), 0))
    target -= tl.sum(tl.where(index < chunk, mass, 0.0), 0)

    tile = allowed_chunk(logits_ptr, table_ptr, mask_row, row, chunk, VOCAB, STRIDE, WORDS, CHUNK)
    x = tl.reshape(tile, [CHUNK])
    weights = tl.exp2((x - shift) * scale)
    if FILTER:
        weights = tl.where(keeps(x, weights, filter_ptr, min_p_ptr, row), weights, 0.0)
    place = tl.arange(0, CHUNK)
    passed = (tl.cumsum(weights.to(tl.float64), 0) > target) & (weights > 0)
    reached = tl.where(draw < 0, x == top, passed)
    first = tl.min(tl.where(reached, place, CHUNK), 0)
    inner = tl.where(first < CHUNK, first, tl.max(tl.where(weights > 0, place, 0), 0))
    token = tl.where(forced >= 0, forced, tl.minimum(chunk * CHUNK + inner, VOCAB - 1))
    top = tl.where(total == total, top, float("nan"))
    tl.store(result_ptr + row, token)
    tl.store(result_ptr + RESULTS + row, top.to(tl.int32, bitcast=True))
    tl.store(last_ptr + slot, token, mask=slot >= 0)


@triton.jit  # type: ignore[untyped-decorator]
def _edit(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    rows_ptr,  # int32 [edited, 8]
    penalty_ptr,  # float32 [edited, 4]
    token_ptr,  # int32 [n]
    value_ptr,  # float32 [n]
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    header = rows_ptr + tl.program_id(0) * 8
    begin = tl.load(header + 1)
    seen = tl.load(header + 2)
    biased = tl.load(header + 3)
    stopped = tl.load(header + 4)
    line = logits_ptr + tl.load(header).to(tl.int64) * STRIDE
    penalties = penalty_ptr + tl.program_id(0) * 4
    repetition = tl.load(penalties)
    frequency = tl.load(penalties + 1)
    presence = tl.load(penalties + 2)
    lane = tl.arange(0, BLOCK)
    for start in range(begin, seen, BLOCK):
        inside = start + lane < seen
        token = tl.load(token_ptr + start + lane, mask=inside, other=VOCAB)
        count = tl.load(value_ptr + start + lane, mask=inside, other=0.0)
        x = tl.load(line + token, mask=token < VOCAB, other=0.0)
        x = tl.where(x > 0, tl.div_rn(x, repetition + tl.zeros_like(x)), x * repetition)
        x = x - count * frequency
        x = x - tl.where(count > 0, presence, 0.0)
        tl.store(line + token, x, mask=token < VOCAB)
    tl.debug_barrier()  # a token may be in several lists
    for start in range(seen, biased, BLOCK):
        inside = start + lane < biased
        token = tl.load(token_ptr + start + lane, mask=inside, other=VOCAB)
        bias = tl.load(value_ptr + start + lane, mask=inside, other=0.0)
        x = tl.load(line + token, mask=token < VOCAB, other=0.0)
        tl.store(line + token, x + bias, mask=token < VOCAB)
    tl.debug_barrier()
    for start in range(biased, stopped, BLOCK):
        inside = start + lane < stopped
        token = tl.load(token_ptr + start + lane, mask=inside, other=VOCAB)
        tl.store(line + token, float("-inf"), mask=token < VOCAB)
