"""Reading a chunk of a row of logits, and small steps that several sampling kernels share."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator]
def allowed_chunk(  # type: ignore[no-untyped-def]
    logits_ptr,
    table_ptr,
    mask_row,
    row,
    chunk,
    VOCAB: tl.constexpr,
    STRIDE: tl.constexpr,
    WORDS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Logits [CHUNK // 32, 32] of a chunk, -inf past the end and where the mask forbids."""
    word = chunk * (CHUNK // 32) + tl.arange(0, CHUNK // 32)
    bit = tl.arange(0, 32)
    token = word[:, None] * 32 + bit[None, :]
    line = logits_ptr + tl.cast(row, tl.int64) * STRIDE
    x = tl.load(line + token, mask=token < VOCAB, other=float("-inf"))
    if mask_row >= 0:
        line_of_mask = table_ptr + tl.cast(mask_row, tl.int64) * WORDS
        words = tl.load(line_of_mask + word, mask=word < WORDS, other=0)
        x = tl.where(((words[:, None] >> bit[None, :]) & 1) != 0, x, float("-inf"))
    return x


@triton.jit
def keeps(x, weights, filter_ptr, min_p_ptr, row):  # type: ignore[no-untyped-def]
    """Whether the filters of a row keep logits x."""
    return (x >= tl.load(filter_ptr + row * 4 + 3)) & (weights >= tl.load(min_p_ptr + row))


@triton.jit  # type: ignore[untyped-decorator]
def bins_of(x, largest, inverse, BINS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Number of the bin of x, 0 for the largest; the last for -inf and what is not finite."""
    place = (largest - x) * inverse
    return tl.where(place < BINS - 1, place, BINS - 1.0).to(tl.int32)
