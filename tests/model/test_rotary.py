"""Rotary tables against Hugging Face transformers and the formula in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ossia.config import ModelConfig, RopeConfig, model_config_to_hf
from ossia.model.rotary import RotaryEmbedding, inverse_frequencies

GPT_OSS = RopeConfig()
CPU = torch.device("cpu")
POSITIONS = torch.tensor([0, 1, 2, 127, 128, 4095, 4096, 4097, 50_000, 131_071])


@pytest.mark.parametrize(
    "rope",
    [
        GPT_OSS,
        replace(GPT_OSS, truncate=True),
        replace(GPT_OSS, original_context=64),
        replace(GPT_OSS, factor=1.0),
    ],
    ids=["gpt-oss", "truncated", "short context", "plain"],
)
@pytest.mark.parametrize("head_dim", [16, 64])
def test_matches_transformers(rope, head_dim):
    from transformers import GptOssConfig
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssRotaryEmbedding

    raw = model_config_to_hf(ModelConfig(head_dim=head_dim, rope=rope, expert_format="bf16"))
    if rope.factor == 1.0:
        raw["rope_parameters"] = {"rope_type": "default", "rope_theta": rope.theta}
    theirs = GptOssRotaryEmbedding(GptOssConfig(**raw))(torch.zeros(1), POSITIONS[None])
    ours = RotaryEmbedding(rope, head_dim, CPU)(POSITIONS)
    for mine, truth in zip(ours, theirs, strict=True):
        assert mine.shape == (len(POSITIONS), head_dim // 2)
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, truth[0], rtol=0, atol=1e-6)


def test_frequencies_are_those_of_the_yarn_paper():
    found = inverse_frequencies(GPT_OSS, 64)
    for pair in range(32):
        plain = 150000.0 ** (-pair / 32)
        turns = 4096 * plain / (2 * math.pi)  # within the original context
        # The ramp is linear in the pair's number, from 32 turns (kept) to 1 turn (divided by 32).
        low, high = (32 * math.log(4096 / (b * 2 * math.pi)) / math.log(150000) for b in (32, 1))
        kept = 1 - min(max((pair - low) / (high - low), 0), 1)
        assert kept == 1 or turns < 32
        assert kept == 0 or turns > 1
        assert found[pair] == pytest.approx(plain * (kept + (1 - kept) / 32), rel=1e-6)


def test_vectors_are_scaled_by_the_attention_factor():
    cos, sin = RotaryEmbedding(GPT_OSS, 64, CPU)(POSITIONS)
    factor = torch.full_like(cos, 0.1 * math.log(32) + 1)
    torch.testing.assert_close((cos.square() + sin.square()).sqrt(), factor)


def test_the_table_holds_what_a_call_gives():
    rotary = RotaryEmbedding(GPT_OSS, 64, CPU)
    table = rotary.table(5000)
    assert table.shape == (5000, 64)
    assert table.dtype == torch.float32
    positions = torch.tensor([4999, 0, 17, 4096])
    assert torch.equal(table[positions], torch.cat(rotary(positions), dim=-1))
