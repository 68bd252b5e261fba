"""The portable mixture of experts against the reference, on a CPU by Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.moe import reference
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def random_experts(experts: int, hidden: int, inner: int, rng: torch.Generator) -> ExpertWeights:
    def packed(rows: int, columns: int) -> Mxfp4Tensor:
        shape = (experts, rows, columns // 32)
        return Mxfp4Tensor(
            torch.randint(0, 256, (*shape, 16), generator=rng, dtype=torch.uint8),
            torch.randint(118, 126, shape, generator=rng, dtype=torch.uint8),
        )

    return ExpertWeights(
        gate_up=packed(2 * inner, hidden),
        gate_up_bias=torch.randn(experts, 2 * inner, generator=rng),
        down=packed(hidden, inner),
        down_bias=torch.randn(experts, hidden, generator=rng),
    )


@interpreted
@pytest.mark.parametrize("tokens", [1, 5, 40])
@pytest.mark.parametrize(("hidden", "inner"), [(64, 96), (160, 32)])
def test_triton_agrees_with_the_reference(tokens, hidden, inner):
    from ossia.kernels.moe.triton_portable import run_experts

    rng = torch.Generator().manual_seed(tokens)
    experts = random_experts(4, hidden, inner, rng)
    x = torch.randn(tokens, hidden, generator=rng)
    shares, chosen = reference.route(torch.randn(tokens, 4, generator=rng), 2)
    truth = reference.run_experts(x.double(), shares.double(), chosen, _double(experts), 1.702, 7.0)
    ours = run_experts(x, shares, chosen, experts, 1.702, 7.0)
    assert float((ours - truth).norm() / truth.norm()) < 1e-5


def _double(experts: ExpertWeights) -> ExpertWeights:
    return ExpertWeights(
        experts.gate_up,
        experts.gate_up_bias.double(),
        experts.down,
        experts.down_bias.double(),
    )
