from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.checkpoint.dummy import GEOMETRIES, dummy_part
from ossia.checkpoint.parts import Part, layer_parts, model_parts
from ossia.config import ModelConfig
from ossia.mxfp4 import Mxfp4Tensor, unpack


def test_every_part_has_its_shape_and_dtype(tiny: ModelConfig) -> None:
    for config in (tiny, replace(tiny, expert_format="bf16")):
        for part in model_parts(config):
            tensor = dummy_part(part, seed=0)
            assert tensor.shape == part.shape
            packed = part.kind in ("blocks", "scales")
            assert tensor.dtype == (torch.uint8 if packed else torch.bfloat16)


def test_the_same_seed_gives_the_same_tensor_and_another_seed_or_layer_another() -> None:
    part = Part(0, "qkv", "linear", (64, 96), 96)
    assert torch.equal(dummy_part(part, 1), dummy_part(part, 1))
    assert not torch.equal(dummy_part(part, 1), dummy_part(part, 2))
    assert not torch.equal(dummy_part(part, 1), dummy_part(replace(part, layer=1), 1))


@pytest.mark.parametrize("fan_in", [64, 96, 512, 2880, 4096])
def test_linear_and_packed_weights_keep_the_size_of_activations(fan_in: int) -> None:
    linear = dummy_part(Part(0, "qkv", "linear", (256, fan_in), fan_in), 0).float()
    assert linear.std() * fan_in**0.5 == pytest.approx(1.0, rel=0.03)
    groups = (4, 64, fan_in // 32)
    packed = Mxfp4Tensor(
        dummy_part(Part(0, "down.blocks", "blocks", (*groups, 16), fan_in), 0),
        dummy_part(Part(0, "down.scales", "scales", groups, fan_in), 0),
    )
    gain = unpack(packed, torch.float32).std() * fan_in**0.5
    assert 0.75 < gain < 1.6  # two scales a factor of two apart, around 1


def test_gpt_oss_experts_have_scales_of_2_to_the_minus_8_and_minus_7() -> None:
    part = Part(0, "down.scales", "scales", (2, 64, 90), 2880)
    assert set(dummy_part(part, 0).unique().tolist()) == {127 - 8, 127 - 7}


def test_all_codes_are_as_likely() -> None:
    blocks = dummy_part(Part(0, "down.blocks", "blocks", (4, 256, 32, 16), 1024), 0)
    counts = torch.bincount(blocks.flatten().int(), minlength=256).double()
    # Chi-square with 255 degrees of freedom: mean 255, standard deviation 22.6.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 255 + 5 * 22.6


def test_embeddings_are_normal() -> None:
    values = dummy_part(Part(None, "embedding", "embedding", (1000, 512)), 0).float().flatten()
    assert values.mean().abs() < 0.01
    assert values.std() == pytest.approx(1.0, abs=0.01)
    assert (values.abs() < 1).float().mean() == pytest.approx(0.6827, abs=0.01)
    assert (values.abs() > 3).float().mean() == pytest.approx(0.0027, abs=0.0005)


def test_norms_are_one_and_biases_small(tiny: ModelConfig) -> None:
    for part in layer_parts(tiny, 0):
        tensor = dummy_part(part, 0)
        if part.kind == "norm":
            assert torch.all(tensor == 1)
        if part.kind == "bias":
            assert tensor.float().abs().max() < 0.1


def test_known_geometries_have_the_published_sizes() -> None:
    def parameters(config: ModelConfig) -> int:
        codes = {"blocks": 2, "scales": 0}  # values a stored byte
        sizes = ((codes.get(p.kind, 1), torch.Size(p.shape).numel()) for p in model_parts(config))
        return sum(factor * size for factor, size in sizes)

    # 20.9 and 116.8 billion, as the model card has it.
    assert parameters(GEOMETRIES["gpt-oss-20b"]) / 1e9 == pytest.approx(20.91, abs=0.01)
    assert parameters(GEOMETRIES["gpt-oss-120b"]) / 1e9 == pytest.approx(116.83, abs=0.01)
