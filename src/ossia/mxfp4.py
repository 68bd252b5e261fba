"""The MXFP4 number format (OCP Microscaling Formats v1.0): packing, unpacking, quantising.

Blocks of 32 values along the input dimension share one E8M0 scale, 2^(code - 127). A value is
E2M1: sign, two exponent bits, one mantissa bit: 0, 0.5, 1, 1.5, 2, 3, 4, 6. Two values a byte,
the first in the low nibble.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32  # values that share one scale
BITS_PER_VALUE = 4.25
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # by the three low bits of a nibble
# Halfway points between neighbours in _E2M1. A value on one goes to the neighbour with an even
# mantissa bit, which is the code with an even number.
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_MAX_EXPONENT = 2  # of the largest E2M1 value, 6 = 1.5 * 2^2
_SCALE_BIAS = 127
_BLOCKS_AT_ONCE = 1 << 17  # quantised together; bounds the memory needed besides the result
_SCALE_NAN = 255  # the E8M0 code that means "not a number"


@dataclass(frozen=True, slots=True)
class Mxfp4Tensor:
    """A packed tensor of logical shape [..., rows, columns], columns a multiple of 32."""

    blocks: Tensor  # uint8 [..., rows, columns / 32, 16]
    scales: Tensor  # uint8 [..., rows, columns / 32]

    @property
    def shape(self) -> tuple[int, ...]:
        """The logical shape [..., rows, columns]."""
        return (*self.blocks.shape[:-2], self.blocks.shape[-2] * BLOCK)

    @property
    def nbytes(self) -> int:
        """Bytes of storage, values and scales."""
        return self.blocks.numel() + self.scales.numel()

    def __getitem__(self, index: int) -> Mxfp4Tensor:
        """One slice along the first dimension, sharing storage."""
        return Mxfp4Tensor(self.blocks[index], self.scales[index])


def quantise(values: Tensor, *, search: bool = True) -> Mxfp4Tensor:
    """Round to MXFP4: each value to the nearest E2M1 value, ties to an even mantissa.

    The scale of a block is 2^(floor(log2(largest magnitude)) - 2), as the specification has it
    (section 6.3), which cuts magnitudes above 6 scales down to 6. With `search` a block takes twice
    that scale where its squared error is then smaller. Tensors that were unpacked from MXFP4 come
    back with equal values either way.

    Args:
        values: any float type, [..., rows, columns], columns a multiple of 32.
        search: choose between the two scales by error.

    Raises:
        ValueError: a wrong shape, or a value that is NaN or infinite.
    """
    if values.dim() < 2 or values.shape[-1] % BLOCK or not values.is_floating_point():
        raise ValueError(
            f"MXFP4 needs a float tensor [..., rows, columns] with columns a multiple of {BLOCK}, "
            f"not {values.dtype} {list(values.shape)}."
        )
    shape = (*values.shape[:-1], values.shape[-1] // BLOCK)
    blocks = torch.empty(*shape, BLOCK // 2, dtype=torch.uint8, device=values.device)
    scales = torch.empty(shape, dtype=torch.uint8, device=values.device)
    flat, flat_blocks, flat_scales = values.reshape(-1, BLOCK), blocks.view(-1, 16), scales.view(-1)
    for start in range(0, len(flat), _BLOCKS_AT_ONCE):
        piece = slice(start, start + _BLOCKS_AT_ONCE)
        codes, exponents = _quantise_blocks(flat[piece], search)
        flat_blocks[piece] = pack_nibbles(codes)
        flat_scales[piece] = exponents + _SCALE_BIAS
    return Mxfp4Tensor(blocks, scales)


def _quantise_blocks(values: Tensor, search: bool) -> tuple[Tensor, Tensor]:
    """values: [n, 32] -> E2M1 codes, uint8 [n, 32], and scale exponents, int32 [n]."""
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    largest = wide.abs().amax(dim=-1)
    if not bool(torch.isfinite(largest).all()):
        raise ValueError("MXFP4 cannot hold NaN or infinity; the tensor has some.")
    # frexp gives largest = mantissa * 2^exponent with a mantissa in [0.5, 1).
    exponents = torch.frexp(largest).exponent - 1 - _MAX_EXPONENT
    exponents = exponents.clamp(-_SCALE_BIAS, _SCALE_BIAS)
    exponents[largest == 0] = 0
    codes = _round_to_e2m1(wide, exponents)
    if not search:
        return codes, exponents
    doubled = (exponents + 1).clamp(max=_SCALE_BIAS)
    doubled_codes = _round_to_e2m1(wide, doubled)
    # The second error is in units of the doubled scale's square, four times those of the first.
    better = 4 * _squared_error(wide, doubled_codes, doubled) < _squared_error(
        wide, codes, exponents
    )
    return (
        torch.where(better.unsqueeze(-1), doubled_codes, codes),
        torch.where(better, doubled, exponents),
    )


def _round_to_e2m1(values: Tensor, exponents: Tensor) -> Tensor:
    """Codes of the E2M1 values nearest to values / 2^exponents, uint8 [n, 32]."""
    scaled = torch.ldexp(values.abs(), -exponents.unsqueeze(-1))
    midpoints = torch.tensor(_MIDPOINTS, dtype=values.dtype, device=values.device)
    # bucketize sends a value on a boundary down; every other boundary, where even is up, is
    # lowered by one unit in the last place.
    midpoints[1::2] = torch.nextafter(midpoints[1::2], torch.zeros_like(midpoints[1::2]))
    magnitudes = torch.bucketize(scaled, midpoints, out_int32=True)
    return (magnitudes + 8 * torch.signbit(values)).to(torch.uint8)


def _squared_error(values: Tensor, codes: Tensor, exponents: Tensor) -> Tensor:
    """[n]: how far the quantised blocks are off, in units of 4^exponent."""
    table = torch.tensor([*_E2M1, *(-v for v in _E2M1)], dtype=values.dtype, device=values.device)
    missed = torch.ldexp(values, -exponents.unsqueeze(-1)) - table[codes.to(torch.int32)]
    return missed.square().sum(-1)


def pack_nibbles(codes: Tensor) -> Tensor:
    """uint8 [..., n] of values below 16 -> uint8 [..., n / 2], the first of two in the low bits."""
    return codes[..., ::2] | (codes[..., 1::2] << 4)


def unpack_nibbles(packed: Tensor) -> Tensor:
    """uint8 [..., n] -> uint8 [..., 2 n], low bits first."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def quantisation_error(values: Tensor, packed: Mxfp4Tensor) -> float:
    """How far `packed` is from `values`: the norm of the difference over the norm, in float64."""
    truth = values.to(torch.float64)
    size = truth.norm()
    return float((unpack(packed, torch.float64) - truth).norm() / size) if size > 0 else 0.0


def unpack(packed: Mxfp4Tensor, dtype: torch.dtype) -> Tensor:
    """The values as `dtype`, shape `packed.shape`; exact, except that 2^128 and above are infinite.

    Every value, even the least, 2^-128, is a bfloat16. So each byte is looked up as a pair of
    bfloat16, moved as one 32-bit word, scaled, and then widened if need be: on a CPU this is four
    times as fast as looking up wider values.
    """
    words = _pair_table(packed.blocks.device).view(torch.int32).view(256)
    found = words.index_select(0, packed.blocks.flatten().to(torch.int32))
    values = found.view(torch.bfloat16).view(*packed.scales.shape, BLOCK)
    values *= _scale_table(packed.scales.device)[packed.scales.to(torch.int32)].unsqueeze(-1)
    return values.view(packed.shape).to(dtype)


def _pair_table(device: torch.device) -> Tensor:
    """bfloat16 [256, 2]: the two values in a byte, low nibble first."""
    values = torch.tensor([*_E2M1, *(-v for v in _E2M1)], dtype=torch.bfloat16, device=device)
    byte = torch.arange(256, device=device)
    return torch.stack((values[byte & 15], values[byte >> 4]), dim=-1)


def _scale_table(device: torch.device) -> Tensor:
    """bfloat16 [256]: 2^(code - 127); the last code is NaN."""
    exponents = torch.arange(256, dtype=torch.float64, device=device) - _SCALE_BIAS
    scales = torch.exp2(exponents).to(torch.bfloat16)
    scales[_SCALE_NAN] = torch.nan
    return scales
