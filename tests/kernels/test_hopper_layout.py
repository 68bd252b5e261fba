"""The layout for Hopper against the rules of the matrix instruction, lane by lane."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ossia.kernels.moe.hopper_layout import HopperExperts, from_hopper, to_hopper
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor, unpack

EXPERTS, HIDDEN, INTERMEDIATE = 3, 192, 128


def random_experts(*, lowest: int = 118, highest: int = 124) -> ExpertWeights:
    rng = torch.Generator().manual_seed(0)

    def packed(rows: int, columns: int) -> Mxfp4Tensor:
        return Mxfp4Tensor(
            torch.randint(
                0, 256, (EXPERTS, rows, columns // 32, 16), generator=rng, dtype=torch.uint8
            ),
            torch.randint(lowest, highest + 1, (EXPERTS, rows, columns // 32), generator=rng).to(
                torch.uint8
            ),
        )

    return ExpertWeights(
        gate_up=packed(2 * INTERMEDIATE, HIDDEN),
        gate_up_bias=torch.zeros(EXPERTS, 2 * INTERMEDIATE),
        down=packed(HIDDEN, INTERMEDIATE),
        down_bias=torch.zeros(EXPERTS, HIDDEN),
    )


def bfloat16_pair(register: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two numbers in a register, as float64: low half, high half."""
    low, high = register << np.uint32(16), register & np.uint32(0xFFFF0000)
    return low.view(np.float32).astype(np.float64), high.view(np.float32).astype(np.float64)


def registers(word: np.ndarray) -> list[np.ndarray]:
    """The device's unpacking: a0 .. a3, bfloat16 pairs times 2^-126."""
    w, mask = word.astype(np.uint32), np.uint32(0x81C081C0)
    a3 = (w << 1) & np.uint32(0x80008000)
    a3 |= (w >> 5) & np.uint32(0x01000100)
    a3 |= (w >> 4) & np.uint32(0x00C000C0)
    return [w & mask, (w << 3) & mask, (w << 6) & mask, a3]


def as_the_matrix_unit_sees_it(blocks: torch.Tensor, scales: torch.Tensor) -> np.ndarray:
    """float64 [E, tiles, 16, K] by the rule of m16n8k16: element (row, column) of A sits in
    register (row >= 8) + 2 (column >= 8) of lane 4 (row % 8) + (column % 8) / 2."""
    experts, tiles, chunks = blocks.shape[:3]
    words = blocks.numpy().view(np.uint32)  # [E, tiles, chunks, 32, 4]
    codes = scales.numpy().astype(np.float64)  # [E, tiles, chunks, 8, 4]
    out = np.full((experts, tiles, 16, chunks * 64), np.nan)
    for step in range(4):
        pairs = [bfloat16_pair(register) for register in registers(words[..., step])]
        for row in range(16):
            for column in range(16):
                lane = 4 * (row % 8) + (column % 8) // 2
                value = pairs[(row >= 8) + 2 * (column >= 8)][column % 2][..., lane]
                code = codes[..., row % 8, 2 * (step // 2) + (row >= 8)]
                k = np.arange(chunks) * 64 + 16 * step + column
                out[:, :, row, k] = value * 2.0**126 * 2.0 ** (code - 127)
    return out


def test_a_tile_of_down_is_sixteen_rows():
    experts = random_experts()
    hopper = to_hopper(experts)
    seen = as_the_matrix_unit_sees_it(hopper.down_blocks, hopper.down_scales)
    truth = unpack(experts.down, torch.float64).numpy()
    np.testing.assert_array_equal(seen.reshape(truth.shape), truth)


def test_a_tile_of_gate_up_is_eight_gates_and_their_ups():
    experts = random_experts()
    hopper = to_hopper(experts)
    seen = as_the_matrix_unit_sees_it(hopper.gate_up_blocks, hopper.gate_up_scales)
    truth = unpack(experts.gate_up, torch.float64).numpy()
    gates, ups = truth[:, 0::2], truth[:, 1::2]
    shape = (EXPERTS, INTERMEDIATE // 8, 8, HIDDEN)
    np.testing.assert_array_equal(seen[:, :, :8], gates.reshape(shape))
    np.testing.assert_array_equal(seen[:, :, 8:], ups.reshape(shape))


def test_a_product_of_bfloat16_makes_the_weight():
    """Every magnitude and every code: E2M1 2^-126 times 2^(code - 1), rounded to bfloat16."""
    magnitudes = torch.arange(8, dtype=torch.int16) << 6
    values = magnitudes.view(torch.bfloat16)  # times 2^-126
    codes = torch.arange(129, dtype=torch.int16)
    scales = ((codes + 126) << 7).view(torch.bfloat16)
    product = (values.double()[:, None] * scales.double()).to(torch.bfloat16)
    truth = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)[:, None]
    truth = truth * torch.exp2(codes.double() - 127)
    assert torch.equal(product.double(), truth)


@pytest.mark.parametrize(("lowest", "highest"), [(118, 124), (0, 128)])
def test_unpacking_gives_the_same_bits_back(lowest, highest):
    experts = random_experts(lowest=lowest, highest=highest)
    hopper = to_hopper(experts)
    assert (hopper.gate_up_gain, hopper.down_gain) == (1.0, 1.0)
    back = from_hopper(hopper)
    for before, after in ((experts.gate_up, back.gate_up), (experts.down, back.down)):
        assert torch.equal(before.blocks, after.blocks)
        assert torch.equal(before.scales, after.scales)


def test_large_scales_become_a_gain():
    experts = random_experts(lowest=100, highest=140)
    hopper = to_hopper(experts)
    assert hopper.down_gain == 2.0**12
    assert int(hopper.down_scales.max()) == 128
    assert torch.equal(from_hopper(hopper).down.scales, experts.down.scales)


def test_sizes():
    hopper = to_hopper(random_experts())
    assert isinstance(hopper, HopperExperts)
    assert (hopper.num_experts, hopper.hidden, hopper.intermediate) == (3, HIDDEN, INTERMEDIATE)
    assert hopper.gate_up_blocks.shape == (3, 2 * INTERMEDIATE // 16, HIDDEN // 64, 32, 16)
    assert hopper.down_scales.shape == (3, HIDDEN // 16, INTERMEDIATE // 64, 8, 4)


def test_what_does_not_fit_is_refused():
    experts = random_experts(highest=255, lowest=255)
    with pytest.raises(ValueError, match="NaN"):
        to_hopper(experts)
    plain = torch.zeros(3, 256, 192)
    with pytest.raises(ValueError, match="not packed"):
        to_hopper(ExpertWeights(plain, plain, plain, plain))
