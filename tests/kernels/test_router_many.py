"""Routing of two and more tokens in Triton's interpreter, against the references."""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.router.groups import group
from ossia.kernels.router.reference import route

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
EPS = 1e-5


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def case(tokens, experts, hidden=80):
    x, norm = torch.randn(tokens, hidden), torch.rand(hidden) + 0.5
    return x, norm, torch.randn(experts, hidden), torch.randn(experts)


def check_routed(found, wanted):
    torch.testing.assert_close(found.normed, wanted.normed)
    torch.testing.assert_close(found.chosen, wanted.chosen)
    torch.testing.assert_close(found.shares, wanted.shares, rtol=1e-4, atol=1e-5)


@interpreted
@pytest.mark.parametrize("experts", [8, 32, 128])
def test_triton_route_of_many_tokens(experts):
    from ossia.kernels.router.triton_many import RouteShape, route_many

    inputs = case(21, experts)
    found = route_many(*inputs, EPS, 4, shape=RouteShape(tokens=16, columns=64))
    check_routed(found, route(*inputs, EPS, 4))


@interpreted
@pytest.mark.parametrize(("tokens", "experts"), [(2, 8), (19, 8), (20, 32), (3, 128)])
def test_triton_route_and_group_of_a_few_tokens(experts, tokens):
    from ossia.kernels.router.triton_few import route_and_group

    inputs = case(tokens, experts)
    routed, groups = route_and_group(*inputs, EPS, 4, 8)
    check_routed(routed, route(*inputs, EPS, 4))
    wanted = group(routed.chosen, experts, 8)
    count = wanted.num_work.item()
    for name in ("offsets", "pair_of_row", "num_work"):
        assert torch.equal(getattr(groups, name), getattr(wanted, name)), name
    assert torch.equal(groups.work[:count], wanted.work[:count])


@interpreted
def test_triton_programs_of_four_tokens_cover_a_rest(monkeypatch):
    from ossia.kernels.router import triton_few

    monkeypatch.setattr(triton_few, "MUCH_WORK", 8)
    inputs = case(7, 16)
    routed, _ = triton_few.route_and_group(*inputs, EPS, 4, 8)
    check_routed(routed, route(*inputs, EPS, 4))


@interpreted
@pytest.mark.parametrize("few", [True, False], ids=["few", "many"])
def test_triton_equal_logits_go_to_the_lower_expert_and_nan_stays_in_range(few):
    from ossia.kernels.router.triton_few import route_and_group
    from ossia.kernels.router.triton_many import route_many

    x, norm, _, _ = case(3, 8)
    weight, bias = torch.zeros(8, 80), torch.tensor([0.0, 1, 0, 1, 1, 0, 1, 1])
    x[1] = float("nan")
    if few:
        routed, groups = route_and_group(x, norm, weight, bias, EPS, 4, 8)
        assert groups.offsets[-1] == 12
    else:
        routed = route_many(x, norm, weight, bias, EPS, 4)
    assert routed.chosen.tolist() == [[1, 3, 4, 6], [0, 1, 2, 3], [1, 3, 4, 6]]
    assert routed.shares[0].tolist() == [0.25] * 4
