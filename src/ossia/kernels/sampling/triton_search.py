"""The thresholds of top_k and top_p among the logits that were listed for a row.

Computes: t_k, the largest x with at least top_k logits >= it; t_p, the largest x whose tokens >= it
hold top_p of the mass of those >= t_k; the larger of both.

Bytes to move: the listed logits, 16 times at most, from the L2 cache.

Launch shape: one program a row. Logits become integers in their order, and a threshold is found
four bits at a time: 16 candidates are compared with every logit, 8 times. Masses are summed in
float64, so the order of the list does not matter. A list that was too long for its buffer (many
equal logits, say) is not used: the row itself is read then, which is right but slow.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ossia.kernels.sampling.triton_chunks import allowed_chunk, bins_of


@triton.jit  # type: ignore[untyped-decorator]
def search(  # type: ignore[no-untyped-def]
    logits_ptr,  # float32 [rows, STRIDE]
    table_ptr,  # int32 [capacity, WORDS]
    mask_ptr,  # int32 [rows]
    scale_ptr,  # float32 [rows]
    top_k_ptr,  # int32 [rows]
    top_p_ptr,  # float32 [rows]
    found_ptr,  # float32 [rows, 4]; the last is written
    bracket_ptr,  # int32 [rows, 4]
    mass_ptr,  # float32 [rows, CHUNKS_P2]
    listed_ptr,  # float32 [rows, CAPACITY]
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNKS_P2: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    row = tl.program_id(0)
    top_k = tl.load(top_k_ptr + row)
    top_p = tl.load(top_p_ptr + row)
    if (top_k == 0) & (top_p >= 1.0):
        return
    mask_row = tl.load(mask_ptr + row)
    scale = tl.load(scale_ptr + row)
    largest = tl.load(found_ptr + row * 4)
    total = tl.load(found_ptr + row * 4 + 1).to(tl.float64)
    inverse = tl.load(found_ptr + row * 4 + 2)
    first = tl.load(bracket_ptr + row * 4)
    last = tl.load(bracket_ptr + row * 4 + 1)
    before = tl.load(bracket_ptr + row * 4 + 2)
    count = tl.load(bracket_ptr + row * 4 + 3)
    tiles = tl.cdiv(tl.where(count <= CAPACITY, count, VOCAB), CHUNK)
    digit = tl.arange(0, 16)
    LOWEST: tl.constexpr = -(2**31)

    lowest = tl.full([], 2**31 - 1, tl.int32)
    highest = tl.full([], LOWEST, tl.int32)
    for tile in range(tiles):
        x = _tile(
            logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
            inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY,
        )  # fmt: skip
        keys = _keys(x)
        lowest = tl.minimum(lowest, tl.min(tl.where(x > float("-inf"), keys, lowest), 0))
        highest = tl.maximum(highest, tl.max(keys, 0))
    # The integers are shifted to 0 .. 2^32 - 1, where a prefix of bits is a lower bound. Digits
    # that all of them share need no search.
    differ = (lowest ^ highest).to(tl.int64) & 0xFFFFFFFF
    places = tl.arange(0, 8)
    ahead = (places > 0) & ((differ >> (32 - 4 * places).to(tl.int64)) == 0)
    shared = tl.sum(ahead.to(tl.int32), 0)
    rest = (32 - 4 * shared).to(tl.int64)
    start = ((lowest.to(tl.int64) - LOWEST) >> rest) << rest

    least = tl.full([], 0, tl.int64)
    if (top_k > 0) & (before + count >= top_k):
        least = start
        for step in range(shared, 8):
            bounds = (least + (digit.to(tl.int64) << (28 - 4 * step)) + LOWEST).to(tl.int32)
            counts = tl.zeros([16], tl.int32)
            for tile in range(tiles):
                x = _tile(
                    logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                    inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY,
                )  # fmt: skip
                counts += tl.sum((_keys(x)[:, None] >= bounds[None, :]).to(tl.int32), 0)
            chosen = tl.max(tl.where(before + counts >= top_k, digit, 0), 0)
            least += chosen.to(tl.int64) << (28 - 4 * step)

    if top_p < 1.0:
        index = tl.arange(0, CHUNKS_P2)
        masses = tl.load(mass_ptr + row * CHUNKS_P2 + index, mask=index < CHUNKS, other=0.0)
        above = tl.sum(masses.to(tl.float64), 0)
        available = above
        bound = (least + LOWEST).to(tl.int32)
        for tile in range(tiles):
            x = _tile(
                logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY,
            )  # fmt: skip
            weights = tl.exp2((x - largest) * scale).to(tl.float64)
            available += tl.sum(tl.where(_keys(x) >= bound, weights, 0.0), 0)
        wanted = top_p.to(tl.float64) * tl.where(top_k > 0, available, total)
        # Rounding must not ask for more than there is.
        wanted = tl.minimum(wanted, available * (1.0 - 1e-12))
        nucleus = start
        for step in range(shared, 8):
            bounds = (nucleus + (digit.to(tl.int64) << (28 - 4 * step)) + LOWEST).to(tl.int32)
            held = tl.zeros([16], tl.float64)
            for tile in range(tiles):
                x = _tile(
                    logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                    inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY,
                )  # fmt: skip
                weights = tl.exp2((x - largest) * scale).to(tl.float64)
                inside = _keys(x)[:, None] >= bounds[None, :]
                held += tl.sum(tl.where(inside, weights[:, None], 0.0), 0)
            chosen = tl.max(tl.where(above + held >= wanted, digit, 0), 0)
            nucleus += chosen.to(tl.int64) << (28 - 4 * step)
        least = tl.maximum(least, nucleus)

    key = (least + LOWEST).to(tl.int32)
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    threshold = tl.where(least > 0, bits.to(tl.float32, bitcast=True), float("-inf"))
    tl.store(found_ptr + row * 4 + 3, threshold)


@triton.jit  # type: ignore[untyped-decorator]
def _tile(  # type: ignore[no-untyped-def]
    logits_ptr,
    table_ptr,
    listed_ptr,
    mask_row,
    row,
    tile,
    count,
    largest,
    inverse,
    first,
    last,
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
    CAPACITY: tl.constexpr,
):
    """Logits [CHUNK] of the bracket, -inf for others: of the list, or of the row if it is long."""
    if count <= CAPACITY:
        at = tile * CHUNK + tl.arange(0, CHUNK)
        line = listed_ptr + tl.cast(row, tl.int64) * CAPACITY
        x = tl.load(line + at, mask=at < count, other=float("-inf"))
    else:
        part = allowed_chunk(
            logits_ptr, table_ptr, mask_row, row, tile, VOCAB, STRIDE, WORDS, CHUNK
        )
        x = tl.reshape(part, [CHUNK])
        place = bins_of(x, largest, inverse)
        x = tl.where((place >= first) & (place <= last), x, float("-inf"))
    return x


@triton.jit
def _keys(x):  # type: ignore[no-untyped-def]
    """Integers in the order of float32 x."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
