"""Which experts are unpacked when the model is loaded."""

from __future__ import annotations

import torch

from ossia.config import ModelConfig
from ossia.kernels.moe.prepare import unpacked_bytes

SMALL = ModelConfig(
    hidden_size=256, num_layers=8, num_experts=16, intermediate_size=128, vocab_size=1000
)


def test_small_models_are_unpacked():
    values = 8 * 16 * 3 * 128 * 256
    assert unpacked_bytes(SMALL, torch.float32) == 4 * values
    assert unpacked_bytes(SMALL, torch.bfloat16) == 2 * values


def test_gpt_oss_and_plain_experts_are_not():
    assert unpacked_bytes(ModelConfig(), torch.bfloat16) == 0
    plain = ModelConfig(hidden_size=256, num_layers=8, intermediate_size=128, expert_format="bf16")
    assert unpacked_bytes(plain, torch.float32) == 0
