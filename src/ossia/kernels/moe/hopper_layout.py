"""MXFP4 experts in the order in which Hopper's matrix instructions take them ("fragments").

A matrix [E, R, K] (R % 16 == 0, K % 64 == 0) becomes tiles of 16 rows and chunks of 64 columns:

    blocks uint8 [E, R/16, K/64, 32 lanes, 16 bytes]
    scales uint8 [E, R/16, K/64, 8, 4]

Lane 4 g + t of a warp loads its 16 bytes at once and then holds its A operands of four
instructions m16n8k16. Word s (32 bits, s = 0 .. 3) serves columns 64 chunk + 16 s + ...:
    a0: row g,     columns 2t, 2t + 1        a2: row g,     columns 2t + 8, 2t + 9
    a1: row g + 8, columns 2t, 2t + 1        a3: row g + 8, columns 2t + 8, 2t + 9
The low half of the word has the lower column of each pair, the high half the upper one. Within 16
bits (sign; magnitude, high bit first):
    a0: 15; 8 7 6     a1: 12; 5 4 3     a2: 9; 2 1 0     a3: 14; 13 11 10
so that a shift and a mask leave a sign at bit 15 and a magnitude at bits 8 .. 6, which as bfloat16
is the E2M1 value times 2^-126, exactly, subnormals included. A multiplication by the bfloat16
2^(code - 1), whose bits are (code + 126) << 7, makes it the weight.

The four bytes of scales for g are (row g, columns 0 .. 31 of the chunk), (row g + 8, the same),
(row g, columns 32 .. 63), (row g + 8, the same).

The 16 rows of a tile are, for `down`, rows 16 n .. 16 n + 15. For `gate_up`, whose original rows
alternate gate and up, row g of tile n is gate 8 n + g and row g + 8 is up 8 n + g: one thread then
holds the gate and the up of one unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import BLOCK, Mxfp4Tensor

TILE = 16  # rows
CHUNK = 64  # columns
LANES = 32
MAX_CODE = 128  # the largest scale code of the layout: 2^(code - 1) must be a finite bfloat16
_NAN_CODE = 255  # of E8M0
_PIECE_BYTES = 32 << 20  # packed values repacked at a time; the temporaries are three times that

# What moves where in a word made of the bytes of a0, a1, a2, a3, lowest first, in each of which the
# low nibble is the lower column: (mask in the layout, places to shift left by to get there).
_MOVES = (
    (0x000001C0, 6),  # a0, lower column: magnitude
    (0x00008000, 12),  # its sign
    (0x01C00000, 18),  # upper column: magnitude
    (0x80000000, 24),  # its sign
    (0x00000038, -5),  # a1
    (0x00001000, 1),
    (0x00380000, 7),
    (0x10000000, 13),
    (0x00000007, -16),  # a2
    (0x00000200, -10),
    (0x00070000, -4),
    (0x02000000, 2),
    (0x00006000, -13),  # a3: sign and high bit of the magnitude
    (0x00000C00, -14),  # the other two bits
    (0x60000000, -1),
    (0x0C000000, -2),
)


@dataclass(frozen=True, slots=True)
class HopperExperts:
    """The experts of one layer in the layout above.

    `gain` is a power of two that the weights of a matrix are to be multiplied by, 1.0 unless a
    scale code is above MAX_CODE.
    """

    gate_up_blocks: Tensor  # uint8 [E, 2 I / 16, hidden / 64, 32, 16]
    gate_up_scales: Tensor  # uint8 [E, 2 I / 16, hidden / 64, 8, 4]
    gate_up_bias: Tensor  # [E, 2 I], in the original order: gate, up, gate, up ...
    gate_up_gain: float
    down_blocks: Tensor  # uint8 [E, hidden / 16, I / 64, 32, 16]
    down_scales: Tensor  # uint8 [E, hidden / 16, I / 64, 8, 4]
    down_bias: Tensor  # [E, hidden]
    down_gain: float

    @property
    def num_experts(self) -> int:
        return self.down_bias.shape[0]

    @property
    def hidden(self) -> int:
        return self.down_bias.shape[1]

    @property
    def intermediate(self) -> int:
        return self.gate_up_bias.shape[1] // 2


def to_hopper(experts: ExpertWeights) -> HopperExperts:
    """Repack packed experts, on their device; needs about 100 MiB beside the result.

    Raises:
        ValueError: unpacked experts, sizes that are no multiples of 16 rows and 64 columns, or a
            scale that is NaN.
    """
    gate_up, down = experts.gate_up, experts.down
    if not (isinstance(gate_up, Mxfp4Tensor) and isinstance(down, Mxfp4Tensor)):
        raise ValueError("The Hopper layout is for MXFP4 experts; these are not packed.")
    gate_up_blocks, gate_up_scales, gate_up_gain = _pack(gate_up, interleaved=True)
    down_blocks, down_scales, down_gain = _pack(down, interleaved=False)
    return HopperExperts(
        gate_up_blocks=gate_up_blocks,
        gate_up_scales=gate_up_scales,
        gate_up_bias=experts.gate_up_bias,
        gate_up_gain=gate_up_gain,
        down_blocks=down_blocks,
        down_scales=down_scales,
        down_bias=experts.down_bias,
        down_gain=down_gain,
    )


def from_hopper(experts: HopperExperts) -> ExpertWeights:
    """The inverse of `to_hopper`, bit for bit where the gains are 1."""
    return ExpertWeights(
        gate_up=_unpack(
            experts.gate_up_blocks,
            experts.gate_up_scales,
            experts.gate_up_gain,
            interleaved=True,
        ),
        gate_up_bias=experts.gate_up_bias,
        down=_unpack(
            experts.down_blocks, experts.down_scales, experts.down_gain, interleaved=False
        ),
        down_bias=experts.down_bias,
    )


def _pack(matrix: Mxfp4Tensor, *, interleaved: bool) -> tuple[Tensor, Tensor, float]:
    """Blocks, scales and gain of one matrix [E, R, K]."""
    num_experts, rows, columns = matrix.shape
    if rows % TILE or columns % CHUNK:
        raise ValueError(
            f"The Hopper layout needs rows in multiples of {TILE} and columns in multiples of "
            f"{CHUNK}, not {rows} x {columns}."
        )
    tiles, chunks = rows // TILE, columns // CHUNK
    largest = int(matrix.scales.max())
    if largest == _NAN_CODE:
        raise ValueError("A scale of these experts is NaN (code 255).")
    excess = max(0, largest - MAX_CODE)
    # Bytes of a row's chunk: step s, half of the step (a0, a1 or a2, a3), t.
    order = (0, 1, 4, 3, 7, 5, 6, 2) if not interleaved else (0, 1, 4, 2, 7, 5, 6, 3)
    row_shape = (8, 2) if interleaved else (2, 8)
    blocks = torch.empty(
        num_experts, tiles, chunks, LANES, TILE, dtype=torch.uint8, device=matrix.blocks.device
    )
    step = max(1, _PIECE_BYTES // (rows * columns // 2))
    for first in range(0, num_experts, step):
        piece = matrix.blocks[first : first + step]
        # [E, tile, (r8, g) or (g, r8), chunk, s, half, t] -> [E, tile, chunk, g, t, s, half, r8]
        shaped = piece.reshape(len(piece), tiles, *row_shape, chunks, 4, 2, 4)
        words = shaped.permute(order).reshape(-1).view(torch.int32)
        spread = blocks[first : first + step].view(torch.int32).view(-1)
        _move(words, spread, forward=True)
    scales = matrix.scales.reshape(num_experts, tiles, *row_shape, chunks, 2)
    # -> [E, tile, chunk, g, block, r8]
    scales = scales.permute((0, 1, 4, 2, 5, 3) if interleaved else (0, 1, 4, 3, 5, 2))
    scales = scales.reshape(num_experts, tiles, chunks, 8, 4)
    if excess:
        # Blocks that end below code 0 are 2^-128 of the largest or less: they may as well grow.
        scales = (scales.to(torch.int16) - excess).clamp(min=0).to(torch.uint8)
    return blocks, scales.contiguous(), 2.0**excess


def _unpack(blocks: Tensor, scales: Tensor, gain: float, *, interleaved: bool) -> Mxfp4Tensor:
    num_experts, tiles, chunks = blocks.shape[:3]
    rows, columns = tiles * TILE, chunks * CHUNK
    packed = torch.empty(
        num_experts, rows, columns // BLOCK, TILE, dtype=torch.uint8, device=blocks.device
    )
    back = (0, 1, 7, 3, 2, 5, 6, 4) if not interleaved else (0, 1, 3, 7, 2, 5, 6, 4)
    for expert in range(num_experts):
        spread = blocks[expert].view(torch.int32).view(-1)
        words = torch.empty_like(spread)
        _move(spread, words, forward=False)
        bytes_ = words.view(torch.uint8).view(1, tiles, chunks, 8, 4, 4, 2, 2)
        packed[expert] = bytes_.permute(back).reshape(rows, columns // BLOCK, TILE)
    shaped = scales.view(num_experts, tiles, chunks, 8, 2, 2)
    natural = shaped.permute((0, 1, 3, 5, 2, 4) if interleaved else (0, 1, 5, 3, 2, 4))
    codes = natural.reshape(num_experts, rows, columns // BLOCK).to(torch.int16)
    codes += torch.tensor(gain).log2().round().int().item()
    return Mxfp4Tensor(packed, codes.to(torch.uint8))


def _move(source: Tensor, target: Tensor, *, forward: bool) -> None:
    """Permute the bits of every word, int32 [n], by _MOVES or by its inverse."""
    target.zero_()
    moved = torch.empty_like(source)
    for mask, places in _MOVES:
        left = places if forward else -places
        wanted = mask if forward else _shifted(mask, -places)
        # The mask comes last: shifting right copies the sign bit.
        if left >= 0:
            torch.bitwise_left_shift(source, left, out=moved)
        else:
            torch.bitwise_right_shift(source, -left, out=moved)
        target |= moved.bitwise_and_(_signed(wanted))


def _shifted(mask: int, left: int) -> int:
    return mask << left if left >= 0 else mask >> -left


def _signed(mask: int) -> int:
    """The int32 with these 32 bits."""
    return mask - (1 << 32) if mask >> 31 else mask
