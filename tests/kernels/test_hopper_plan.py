"""Which expert kernel runs for how many tokens."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from ossia.kernels.moe.hopper_plan import Kind, all_plans, plan_experts

GEOMETRIES = [(4, 32), (4, 128)]  # gpt-oss-20b and 120b


@pytest.mark.parametrize(("k", "experts"), GEOMETRIES)
def test_more_tokens_never_take_a_kernel_for_fewer(k: int, experts: int) -> None:
    order = list(Kind)
    kinds = [order.index(plan_experts(tokens, k, experts).kind) for tokens in range(2, 8193)]
    assert kinds == sorted(kinds)
    assert set(kinds) == {0, 1, 2}


@pytest.mark.parametrize(("k", "experts"), GEOMETRIES)
def test_all_plans_has_what_any_step_takes(k: int, experts: int) -> None:
    plans = all_plans(8192, k, experts)
    for tokens in (2, 7, 31, 64, 65, 200, 513, 1000, 4096, 8192):
        plan = plan_experts(tokens, k, experts)
        assert plan_experts(plans[plan], k, experts) == plan
        assert plans[plan] <= tokens
    assert len(plans) < 16  # each is compiled at the first start


def test_a_short_range_has_the_plans_of_its_steps_only() -> None:
    assert set(all_plans(8, 4, 32)) == {plan_experts(tokens, 4, 32) for tokens in range(2, 9)}
