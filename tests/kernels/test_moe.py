"""Experts on a CPU against the reference and the formula."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ossia.kernels.moe import cpu, reference
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import quantise, unpack

HIDDEN, INTERMEDIATE, EXPERTS = 64, 32, 8


def make(dtype=torch.float32, *, packed=False, hidden=HIDDEN, intermediate=INTERMEDIATE):
    rng = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=rng).to(dtype)

    gate_up = normal(EXPERTS, 2 * intermediate, hidden) * 0.5
    down = normal(EXPERTS, hidden, intermediate) * 0.2
    return ExpertWeights(
        gate_up=quantise(gate_up) if packed else gate_up,
        gate_up_bias=normal(EXPERTS, 2 * intermediate),
        down=quantise(down) if packed else down,
        down_bias=normal(EXPERTS, hidden),
    )


def inputs(tokens, dtype=torch.float32, *, hidden=HIDDEN, per_token=4):
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, hidden, generator=rng).to(dtype)
    logits = torch.randn(tokens, EXPERTS, generator=rng).to(dtype)
    return x, *reference.route(logits, per_token)


@pytest.mark.parametrize("tokens", [1, 2, 9, 100])
@pytest.mark.parametrize("packed", [False, True])
def test_matches_the_reference(tokens, packed):
    arguments = *inputs(tokens), make(packed=packed), 1.702, 7.0
    torch.testing.assert_close(
        cpu.run_experts(*arguments), reference.run_experts(*arguments), rtol=1e-4, atol=1e-4
    )


def test_packed_and_unpacked_experts_agree():
    packed = make(packed=True)
    plain = replace(
        packed,
        gate_up=unpack(packed.gate_up, torch.float32),
        down=unpack(packed.down, torch.float32),
    )
    x, shares, chosen = inputs(9)
    torch.testing.assert_close(
        cpu.run_experts(x, shares, chosen, plain, 1.702, 7.0),
        cpu.run_experts(x, shares, chosen, packed, 1.702, 7.0),
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_other_types(dtype):
    arguments = *inputs(9, dtype), make(dtype), 1.702, 7.0
    ours, truth = cpu.run_experts(*arguments), reference.run_experts(*arguments)
    assert ours.dtype == dtype
    tolerance = {torch.bfloat16: 0.05, torch.float64: 1e-12}[dtype]
    torch.testing.assert_close(ours, truth, rtol=tolerance, atol=tolerance)


def test_sizes_that_the_grouped_product_cannot_take():
    arguments = *inputs(9, hidden=30), make(hidden=30, intermediate=7), 1.702, 7.0
    torch.testing.assert_close(
        cpu.run_experts(*arguments), reference.run_experts(*arguments), rtol=1e-4, atol=1e-4
    )


def test_one_expert_per_token_and_no_tokens():
    weights = make()
    for tokens in (0, 3):
        x, shares, chosen = inputs(tokens, per_token=1)
        assert torch.equal(shares, torch.ones(tokens, 1))
        assert cpu.run_experts(x, shares, chosen, weights, 1.702, 7.0).shape == x.shape


def test_the_reference_is_the_formula():
    weights = make()
    x, shares, chosen = inputs(3)
    out = reference.run_experts(x, shares, chosen, weights, 1.702, 7.0)
    for token in range(3):
        total = torch.zeros(HIDDEN)
        for share, e in zip(shares[token], chosen[token].tolist(), strict=True):
            h = weights.gate_up[e] @ x[token] + weights.gate_up_bias[e]
            gate, up = h[0::2].clamp(max=7), h[1::2].clamp(-7, 7)
            h = gate / (1 + torch.exp(-1.702 * gate)) * (up + 1)
            total += share * (weights.down[e] @ h + weights.down_bias[e])
        torch.testing.assert_close(out[token], total, rtol=1e-4, atol=1e-4)


def test_swiglu_clamps_the_gate_above_only_and_up_on_both_sides():
    gate_up = torch.tensor([[100.0, 100.0, -100.0, 0.0, 1.0, -100.0]])
    found = reference.swiglu(gate_up, 1.702, 7.0)[0]
    assert found[0] == pytest.approx(7 * 8, rel=1e-4)
    assert found[1] == pytest.approx(0.0, abs=1e-6)
    assert found[2] == pytest.approx(torch.sigmoid(torch.tensor(1.702)).item() * -6)


def test_shares_are_a_softmax_over_the_chosen_alone():
    shares, chosen = reference.route(torch.tensor([[1.0, 5.0, 3.0, 4.0]]), 2)
    assert chosen.tolist() == [[1, 3]]
    torch.testing.assert_close(shares, torch.tensor([[5.0, 4.0]]).softmax(-1))
