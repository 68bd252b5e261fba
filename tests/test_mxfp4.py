"""The MXFP4 format: exact where it can be, nearest elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ossia.mxfp4 import (
    Mxfp4Tensor,
    pack_nibbles,
    quantisation_error,
    quantise,
    unpack,
    unpack_nibbles,
)

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
DTYPES = [torch.bfloat16, torch.float32, torch.float64]


def every_value(least_scale: int, greatest_scale: int) -> Mxfp4Tensor:
    """One row for each scale code, holding each of the 16 values twice."""
    codes = torch.arange(least_scale, greatest_scale + 1, dtype=torch.uint8)
    row = torch.tensor([16 * ((2 * i + 1) % 16) + 2 * i % 16 for i in range(16)], dtype=torch.uint8)
    return Mxfp4Tensor(row.repeat(len(codes), 1, 1), codes.unsqueeze(-1))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpack_is_exact(dtype):
    packed = every_value(0, 252)
    values = [s * v for _ in range(2) for s in (1, -1) for v in E2M1]
    truth = [[v * 2.0 ** (code - 127) for v in values] for code in range(253)]
    found = unpack(packed, dtype)
    assert found.dtype == dtype
    assert found.shape == packed.shape == (253, 32)
    assert torch.equal(found.double(), torch.tensor(truth, dtype=torch.float64))


def test_the_scale_code_255_is_nan():
    assert unpack(every_value(255, 255), torch.float32).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_agrees_with_transformers_bit_for_bit(dtype):
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    rng = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (3, 64, 4, 16), generator=rng, dtype=torch.uint8)
    scales = torch.randint(0, 254, (3, 64, 4), generator=rng, dtype=torch.uint8)
    theirs = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=dtype)
    ours = unpack(Mxfp4Tensor(blocks, scales), dtype)
    integer = torch.int16 if dtype == torch.bfloat16 else torch.int32
    assert torch.equal(ours.view(integer), theirs.transpose(1, 2).contiguous().view(integer))


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_unpacked_values_are_quantised_to_themselves(dtype, search):
    rng = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (2, 16, 8, 16), generator=rng, dtype=torch.uint8)
    scales = torch.randint(10, 240, (2, 16, 8), generator=rng, dtype=torch.uint8)
    values = unpack(Mxfp4Tensor(blocks, scales), dtype)
    again = quantise(values, search=search)
    assert torch.equal(unpack(again, dtype), values)
    assert quantisation_error(values, again) == 0.0


def test_ties_go_to_the_even_mantissa():
    # 6 fixes the scale at 1; the others lie halfway between neighbours.
    ties = {0.25: 0.0, 0.75: 1.0, 1.25: 1.0, 1.75: 2.0, 2.5: 2.0, 3.5: 4.0, 5.0: 4.0}
    row = torch.zeros(1, 32)
    row[0, :7], row[0, 7:14] = torch.tensor(list(ties)), -torch.tensor(list(ties))
    row[0, 31] = 6.0
    found = unpack(quantise(row, search=False), torch.float32)[0]
    assert found[:7].tolist() == list(ties.values())
    assert found[7:14].tolist() == [-v for v in ties.values()]


def test_magnitudes_above_six_scales_are_cut_without_search():
    row = torch.zeros(1, 32)
    row[0, :2] = torch.tensor([7.9, 1.0])  # floor(log2(7.9)) - 2 = 0: the scale is 1
    assert unpack(quantise(row, search=False), torch.float32)[0, :2].tolist() == [6.0, 1.0]
    assert unpack(quantise(row, search=True), torch.float32)[0, :2].tolist() == [8.0, 1.0]


def test_zeros_stay_zeros():
    packed = quantise(torch.zeros(3, 64))
    assert torch.equal(unpack(packed, torch.float32), torch.zeros(3, 64))
    assert quantisation_error(torch.zeros(3, 64), packed) == 0.0


@pytest.mark.parametrize("power", [-126, -100, 100, 125])
def test_tiny_and_huge_values_keep_their_relative_error(power):
    values = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    scaled = values * 2.0**power
    assert torch.isfinite(scaled).all()
    assert quantisation_error(scaled, quantise(scaled)) < 0.15


def test_values_below_the_least_become_zero():
    values = torch.full((1, 32), 2.0**-149)
    assert torch.equal(unpack(quantise(values), torch.float32), torch.zeros(1, 32))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_refused(bad):
    values = torch.zeros(2, 32)
    values[1, 5] = bad
    with pytest.raises(ValueError, match="cannot hold NaN or infinity"):
        quantise(values)


@pytest.mark.parametrize(
    "values", [torch.zeros(4, 33), torch.zeros(32), torch.zeros(4, 32, dtype=torch.int32)], ids=str
)
def test_wrong_shapes_and_types_are_refused(values):
    with pytest.raises(ValueError, match="columns a multiple of 32"):
        quantise(values)


def test_search_never_makes_a_block_worse_and_helps_on_normal_weights():
    values = torch.randn(64, 32 * 20, generator=torch.Generator().manual_seed(0)) * 0.02
    plain, searched = (quantise(values, search=s) for s in (False, True))

    def block_errors(packed):
        missed = (unpack(packed, torch.float64) - values).view(64, 20, 32)
        return missed.square().sum(-1)

    assert (block_errors(searched) <= block_errors(plain) * (1 + 1e-6)).all()
    assert quantisation_error(values, plain) == pytest.approx(0.114, abs=0.002)
    assert quantisation_error(values, searched) == pytest.approx(0.111, abs=0.002)


def test_large_tensors_are_quantised_in_pieces_like_small_ones():
    values = torch.randn(700, 32 * 200, generator=torch.Generator().manual_seed(0))
    whole, part = quantise(values), quantise(values[-3:])
    assert torch.equal(whole.blocks[-3:], part.blocks)
    assert torch.equal(whole.scales[-3:], part.scales)


blocks_of_floats = hnp.arrays(
    np.float32, (2, 32), elements=st.floats(-(2.0**60), 2.0**60, width=32)
)


@given(blocks_of_floats)
@settings(max_examples=200, deadline=None)
def test_every_value_goes_to_the_nearest_of_its_block(array):
    values = torch.from_numpy(array).double()
    for search in (False, True):
        packed = quantise(values, search=search)
        found = unpack(packed, torch.float64)
        scale = torch.exp2(packed.scales.double() - 127).unsqueeze(-1)  # [2, 1, 1]
        grid = torch.tensor([s * v for v in E2M1 for s in (1, -1)], dtype=torch.float64)
        nearest = (values.unsqueeze(-1) - grid * scale).abs().amin(-1)
        assert torch.equal((values - found).abs(), nearest)
        assert (found * values >= 0).all()  # signs are kept


@given(st.lists(st.integers(0, 255), min_size=2, max_size=32).filter(lambda x: len(x) % 2 == 0))
def test_nibbles_round_trip(numbers):
    packed = torch.tensor(numbers, dtype=torch.uint8)
    assert torch.equal(pack_nibbles(unpack_nibbles(packed)), packed)


def test_the_first_value_is_in_the_low_nibble():
    assert unpack_nibbles(torch.tensor([0x21], dtype=torch.uint8)).tolist() == [1, 2]


def test_an_index_gives_one_matrix():
    packed = quantise(torch.randn(3, 4, 64, generator=torch.Generator().manual_seed(0)))
    assert packed[1].shape == (4, 64)
    assert torch.equal(unpack(packed[1], torch.float32), unpack(packed, torch.float32)[1])
    assert packed.nbytes == 3 * 4 * 64 * 17 // 32  # 4.25 bits a value
