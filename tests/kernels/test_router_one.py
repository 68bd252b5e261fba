"""The router: what the reference promises, and the kernel of one token against it.

The kernel runs in Triton's interpreter, in a process of its own, because the interpreter must be
chosen before Triton is first imported. `tests/gpu/test_dense_one.py` runs it on a GPU.
"""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.router.reference import route, route_logits

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
EPS = 1e-5


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def make(tokens=1, *, hidden=48, experts=8, dtype=torch.float32):
    """x, norm, weight, bias."""
    rng = torch.Generator().manual_seed(0)
    shapes = ((tokens, hidden), (hidden,), (experts, hidden), (experts,))
    return tuple(torch.randn(*shape, generator=rng).to(dtype) for shape in shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shares_are_a_softmax_over_the_largest_logits_alone(dtype):
    x, norm, weight, bias = make(5, dtype=dtype)
    routed = route(x, norm, weight, bias, EPS, 3)
    assert torch.equal(routed.normed, rms_norm(x, norm, EPS))
    assert routed.normed.dtype == dtype
    assert routed.shares.dtype == torch.float32
    assert routed.chosen.dtype == torch.int32
    for t in range(5):
        logits = weight.double() @ routed.normed[t].double() + bias.double()
        top = sorted(range(8), key=lambda expert: -logits[expert])[:3]
        assert routed.chosen[t].tolist() == top
        truth = logits[top].softmax(-1)
        torch.testing.assert_close(routed.shares[t].double(), truth, rtol=1e-4, atol=1e-5)


def test_of_equal_logits_the_lower_number_is_chosen_first():
    x, norm, weight, bias = make(2, experts=40)
    routed = route(x, norm, torch.zeros_like(weight), torch.zeros_like(bias), EPS, 4)
    assert routed.chosen.tolist() == [[0, 1, 2, 3]] * 2
    bias = torch.zeros(40).index_fill_(0, torch.tensor([31, 7]), 1.0)
    routed = route(x, norm, torch.zeros_like(weight), bias, EPS, 4)
    assert routed.chosen.tolist() == [[7, 31, 0, 1]] * 2


def test_logits_are_float32_and_of_the_normed_x_as_rounded():
    x, norm, weight, bias = make(3, dtype=torch.bfloat16)
    normed, logits = route_logits(x, norm, weight, bias, EPS)
    assert logits.dtype == torch.float32
    truth = normed.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(logits.double(), truth, rtol=1e-5, atol=1e-5)


@pytest.fixture
def route_one():
    from ossia.kernels.router.triton_one import route_one

    return route_one


@interpreted
@pytest.mark.parametrize("experts", [1, 4, 32])
@pytest.mark.parametrize("hidden", [40, 64, 360])
def test_triton_matches_the_reference(route_one, experts, hidden):
    case = make(hidden=hidden, experts=experts)
    found, truth = route_one(*case, EPS), route_logits(*case, EPS)
    assert found[1].shape == (experts,)
    torch.testing.assert_close(found[0], truth[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], truth[1][0], rtol=1e-4, atol=1e-4)


@interpreted
def test_triton_in_bfloat16_takes_logits_of_the_rounded_vector(route_one):
    x, norm, weight, bias = make(dtype=torch.bfloat16)
    normed, logits = route_one(x, norm, weight, bias, EPS)
    assert normed.dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    torch.testing.assert_close(normed, rms_norm(x, norm, EPS), rtol=2**-7, atol=0)
    truth = normed[0].double() @ weight.double().T + bias.double()
    torch.testing.assert_close(logits.double(), truth, rtol=1e-5, atol=1e-5)
