"""What the matrix-vector products of one token share (qkv/, attention_out/, router/, lm_head/).

Computes y[r] = sum_k w[r, k] x[k] for the few rows r of one program, in float32.

Bytes to move: each weight once, 2 a weight in bfloat16; x and y are small beside it. At 3 TB/s this
is all that counts, so a program issues the loads of all of its weights, 16 bytes a thread each,
before it uses the first: tens of kilobytes are in flight on every multiprocessor.

Launch shape: a program has `rows` rows and all of their columns, in pieces of `piece` columns. The
last piece is masked. No sum crosses programs. With programmatic dependent launch, programs start
while the kernel before still runs and load weights, which no kernel writes, then wait for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

LEAST_WARP_COLUMNS = 256  # 32 threads with 8 bfloat16 (16 bytes) each


@dataclass(frozen=True, slots=True)
class MatVecShape:
    """How a matrix-vector product is cut into programs."""

    rows: int  # of the weight, a program; a power of two
    piece: int  # columns of the weight in one tile; a power of two
    warps: int  # a program

    def columns(self, inputs: int) -> int:
        """The columns of a piece for rows of `inputs` columns: small models have few."""
        whole: int = triton.next_power_of_2(inputs)
        return min(self.piece, whole)


def pdl_options(pdl: bool) -> dict[str, bool]:
    """The options of a launch as a programmatic dependent: none where it is off.

    Triton for GPUs of other makers does not know the option.
    """
    return {"launch_pdl": True} if pdl else {}


@triton.jit  # type: ignore[untyped-decorator]
def load_rows(row_ptrs, INPUTS: tl.constexpr, PIECE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whole rows of a weight: a tuple of tiles [rows, PIECE]; columns past INPUTS are 0.

    Nothing reads a weight twice in a step, so the cache keeps keys and activations instead.
    """
    k = tl.arange(0, PIECE)
    tiles = ()
    for start in tl.static_range(0, INPUTS, PIECE):
        ptrs = row_ptrs[:, None] + (start + k)[None, :]
        if start + PIECE <= INPUTS:
            tile = tl.load(ptrs, eviction_policy="evict_first")
        else:
            mask = (start + k < INPUTS)[None, :]
            tile = tl.load(ptrs, mask=mask, other=0.0, eviction_policy="evict_first")
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005 (unknown to Triton)
    return tiles


@triton.jit  # type: ignore[untyped-decorator]
def load_vector(ptr, INPUTS: tl.constexpr, PIECE: tl.constexpr):  # type: ignore[no-untyped-def]
    """A vector of INPUTS elements: a tuple of tiles [PIECE], 0 past the end."""
    k = tl.arange(0, PIECE)
    tiles = ()
    for start in tl.static_range(0, INPUTS, PIECE):
        if start + PIECE <= INPUTS:
            tile = tl.load(ptr + start + k)
        else:
            tile = tl.load(ptr + start + k, mask=start + k < INPUTS, other=0.0)
        tiles = tiles + (tile,)  # type: ignore[assignment]  # noqa: RUF005
    return tiles


@triton.jit
def product(weights, x):  # type: ignore[no-untyped-def]
    """sum_k w[r, k] x[k]: float32 [rows], of tiles from `load_rows` and `load_vector`."""
    total = weights[0].to(tl.float32) * x[0].to(tl.float32)[None, :]
    for i in tl.static_range(1, len(weights)):
        total += weights[i].to(tl.float32) * x[i].to(tl.float32)[None, :]
    return tl.sum(total, axis=1)


@triton.jit  # type: ignore[untyped-decorator]
def normed_product(  # type: ignore[no-untyped-def]
    weights, x, norm, INPUTS: tl.constexpr, EPS: tl.constexpr
):
    """The product with x / sqrt(mean(x^2) + EPS) * norm: float32 [rows].

    The factor of the whole vector is applied to the sums, so that they need not wait for it, and
    the normed vector is never rounded: closer to the formula than bfloat16 in between would be.
    """
    wide = x[0].to(tl.float32)
    squares = wide * wide
    total = weights[0].to(tl.float32) * (wide * norm[0].to(tl.float32))[None, :]
    for i in tl.static_range(1, len(weights)):
        wide = x[i].to(tl.float32)
        squares += wide * wide
        total += weights[i].to(tl.float32) * (wide * norm[i].to(tl.float32))[None, :]
    # One reduction of both, which has one exchange between warps where two would have two.
    repeated = tl.broadcast_to(squares[None, :], total.shape)
    sums, square_sum = tl.reduce((total, repeated), 1, _add_both)
    return sums * tl.rsqrt(square_sum / INPUTS + EPS)


@triton.jit
def _add_both(a, b, c, d):  # type: ignore[no-untyped-def]
    return a + c, b + d
