"""The thresholds of top_k and top_p among the logits that were listed for a row.

Computes: t_k, the largest x with at least top_k logits >= it; t_p, the largest x whose tokens >= it
hold top_p of the mass of those >= t_k; the larger of both.

Bytes to move: the listed logits, once from the L2 cache and some 12 to 18 times from the L1.

Launch shape: one program a row. Logits become integers in their order, and a threshold is found
two bits at a time, from the least to the largest of the list: three candidates are compared with
every logit, some 12 times. Each thread adds up its own part over all tiles, so that threads meet
once a digit and not once a tile: that exchange takes longer than the additions. Masses are summed
in float64, so the order of the list does not matter. A list that was too long for its buffer is
not used: the row itself is read then, which is right but slow. Many equal logits are not slow,
as they leave no digits to search.
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
    BINS: tl.constexpr,
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
    LOWEST: tl.constexpr = -(2**31)
    FIELD: tl.constexpr = 21  # bits of a packed count; a row has fewer logits
    FIELD_MASK: tl.constexpr = 2**21 - 1

    lowest = tl.full([], 2**31 - 1, tl.int32)
    highest = tl.full([], LOWEST, tl.int32)
    for tile in range(tiles):
        x = _tile(
            logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
            inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY, BINS,
        )  # fmt: skip
        keys = _keys(x)
        lowest = tl.minimum(lowest, tl.min(tl.where(x > float("-inf"), keys, lowest), 0))
        highest = tl.maximum(highest, tl.max(keys, 0))
    # A threshold is `bottom` plus as many digits of base 4 as the listed keys differ in.
    bottom = lowest.to(tl.int64)
    top = highest.to(tl.int64)
    span = tl.maximum(top - bottom, 0)
    places = tl.arange(0, 16).to(tl.int64)
    digits = tl.sum(((span >> (2 * places)) != 0).to(tl.int32), 0)

    searches_k = (top_k > 0) & (before + count >= top_k)
    least = tl.full([], LOWEST, tl.int64)
    if searches_k:
        least = bottom
        for step in range(digits):
            unit = tl.full([], 1, tl.int64) << (2 * (digits - 1 - step)).to(tl.int64)
            first_bound = tl.minimum(least + unit, top).to(tl.int32)
            second_bound = tl.minimum(least + 2 * unit, top).to(tl.int32)
            third_bound = tl.minimum(least + 3 * unit, top).to(tl.int32)
            packed = tl.zeros([CHUNK], tl.int64)
            for tile in range(tiles):
                x = _tile(
                    logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                    inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY, BINS,
                )  # fmt: skip
                keys = _keys(x)
                packed += (keys >= first_bound).to(tl.int64)
                packed += (keys >= second_bound).to(tl.int64) << FIELD
                packed += (keys >= third_bound).to(tl.int64) << (2 * FIELD)
            counts = tl.sum(packed, 0)
            needed = (top_k - before).to(tl.int64)
            digit = ((counts & FIELD_MASK) >= needed).to(tl.int64)
            digit += (((counts >> FIELD) & FIELD_MASK) >= needed).to(tl.int64)
            digit += ((counts >> (2 * FIELD)) >= needed).to(tl.int64)
            least += digit * unit
        least = tl.minimum(least, top)

    if top_p < 1.0:
        index = tl.arange(0, CHUNKS_P2)
        masses = tl.load(mass_ptr + row * CHUNKS_P2 + index, mask=index < CHUNKS, other=0.0)
        above = tl.sum(masses.to(tl.float64), 0)
        bound = least.to(tl.int32)
        listed = tl.zeros([CHUNK], tl.float64)
        for tile in range(tiles):
            x = _tile(
                logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY, BINS,
            )  # fmt: skip
            weights = tl.exp2((x - largest) * scale)
            listed += tl.where(_keys(x) >= bound, weights, 0.0).to(tl.float64)
        available = above + tl.sum(listed, 0)
        wanted = top_p.to(tl.float64) * tl.where(top_k > 0, available, total)
        # Rounding must not ask for more than there is.
        wanted = tl.minimum(wanted, available * (1.0 - 1e-12))
        nucleus = bottom
        for step in range(digits):
            unit = tl.full([], 1, tl.int64) << (2 * (digits - 1 - step)).to(tl.int64)
            first_bound = tl.minimum(nucleus + unit, top).to(tl.int32)
            second_bound = tl.minimum(nucleus + 2 * unit, top).to(tl.int32)
            third_bound = tl.minimum(nucleus + 3 * unit, top).to(tl.int32)
            one = tl.zeros([CHUNK], tl.float64)
            two = tl.zeros([CHUNK], tl.float64)
            three = tl.zeros([CHUNK], tl.float64)
            for tile in range(tiles):
                x = _tile(
                    logits_ptr, table_ptr, listed_ptr, mask_row, row, tile, count, largest,
                    inverse, first, last, VOCAB, STRIDE, WORDS, CHUNK, CAPACITY, BINS,
                )  # fmt: skip
                keys = _keys(x)
                weights = tl.exp2((x - largest) * scale)
                one += tl.where(keys >= first_bound, weights, 0.0).to(tl.float64)
                two += tl.where(keys >= second_bound, weights, 0.0).to(tl.float64)
                three += tl.where(keys >= third_bound, weights, 0.0).to(tl.float64)
            digit = (above + tl.sum(one, 0) >= wanted).to(tl.int64)
            digit += (above + tl.sum(two, 0) >= wanted).to(tl.int64)
            digit += (above + tl.sum(three, 0) >= wanted).to(tl.int64)
            nucleus += digit * unit
        least = tl.maximum(least, tl.minimum(nucleus, top))

    key = least.to(tl.int32)
    bits = key ^ ((key >> 31) & 0x7FFFFFFF)
    found = (searches_k | (top_p < 1.0)) & (count > 0)
    threshold = tl.where(found, bits.to(tl.float32, bitcast=True), float("-inf"))
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
    BINS: tl.constexpr,
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
        place = bins_of(x, largest, inverse, BINS)
        x = tl.where((place >= first) & (place <= last), x, float("-inf"))
    return x


@triton.jit
def _keys(x):  # type: ignore[no-untyped-def]
    """Integers in the order of float32 x."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
