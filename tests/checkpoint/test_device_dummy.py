"""Random weights of a device have the distribution of those of the CPU; here made on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.checkpoint.device_dummy import device_dummy_part
from ossia.checkpoint.dummy import dummy_part
from ossia.checkpoint.parts import Part, model_parts
from ossia.config import ModelConfig

CPU = torch.device("cpu")


def test_every_part_is_like_the_one_of_the_cpu(tiny: ModelConfig) -> None:
    for config in (tiny, replace(tiny, expert_format="bf16")):
        for part in model_parts(config):
            made, known = device_dummy_part(part, 0, CPU), dummy_part(part, 0)
            assert made.shape == known.shape
            assert made.dtype == known.dtype
            assert made.is_contiguous()
            if part.kind in ("norm", "scales"):
                assert torch.equal(made.unique(), known.unique())


def test_the_same_seed_gives_the_same_tensor_and_another_seed_or_layer_another() -> None:
    for part in (
        Part(0, "qkv", "linear", (64, 96), 96),
        Part(0, "down.blocks", "blocks", (2, 8, 3, 16), 96),
    ):
        assert torch.equal(device_dummy_part(part, 1, CPU), device_dummy_part(part, 1, CPU))
        for other in (
            device_dummy_part(part, 2, CPU),
            device_dummy_part(replace(part, layer=1), 1, CPU),
        ):
            assert not torch.equal(device_dummy_part(part, 1, CPU), other)


@pytest.mark.parametrize("kind", ["embedding", "linear", "bias", "sinks", "experts"])
def test_values_are_normal_with_the_deviation_of_the_cpu(kind: str) -> None:
    part = Part(0, "any", kind, (8, 256, 512), 512)  # type: ignore[arg-type]
    made, known = device_dummy_part(part, 0, CPU).float(), dummy_part(part, 0).float()
    std = float(known.std())
    assert float(made.std()) == pytest.approx(std, rel=0.01)
    assert float(made.mean().abs()) < 0.01 * std
    for k, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert float((made.abs() < k * std).float().mean()) == pytest.approx(share, abs=0.003)


def test_all_codes_are_as_likely() -> None:
    blocks = device_dummy_part(Part(0, "d", "blocks", (4, 256, 32, 16), 1024), 0, CPU)
    counts = torch.bincount(blocks.flatten().int(), minlength=256).double()
    # Chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 255 + 5 * 22.6


def test_both_scales_of_gpt_oss_are_as_likely() -> None:
    scales = device_dummy_part(Part(0, "d", "scales", (8, 64, 90), 2880), 0, CPU)
    assert set(scales.unique().tolist()) == {127 - 8, 127 - 7}
    assert float((scales == 127 - 7).float().mean()) == pytest.approx(0.5, abs=0.02)
