"""Routing, grouping and combining on a GPU, in the geometry of gpt-oss."""

from __future__ import annotations

import pytest
import torch

from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.router.combine import combine
from ossia.kernels.router.groups import group

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
HIDDEN, K, EPS = 2880, 4, 1e-5


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape, device="cuda") * scale).bfloat16()


def pdl_modes() -> list[bool]:
    return [False, True] if torch.cuda.get_device_capability() >= (9, 0) else [False]


def error(out: torch.Tensor, truth: torch.Tensor) -> float:
    assert out.shape == truth.shape
    return ((out.double() - truth.double()).norm() / truth.double().norm()).item()


def check_groups(found, chosen, experts: int, rows_a_tile: int) -> None:
    wanted = group(chosen, experts, rows_a_tile)
    for name in ("offsets", "pair_of_row", "num_work"):
        assert torch.equal(getattr(found, name), getattr(wanted, name)), name
    count = wanted.num_work.item()
    assert torch.equal(found.work[:count], wanted.work[:count])


def choices(tokens: int, experts: int) -> torch.Tensor:
    """Different experts for each token, some far more often than others."""
    weights = torch.rand(tokens, experts, device="cuda").pow(
        torch.arange(experts, device="cuda") / 4 + 0.1
    )
    return weights.topk(K).indices.int()


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tokens", [1, 2, 64, 65, 512, 3000, 8192])
def test_group(experts, tokens):
    from ossia.kernels.router.triton_groups import group as triton_group

    chosen = choices(tokens, experts)
    for rows_a_tile, pdl in ((16, False), (128, pdl_modes()[-1])):
        found = triton_group(chosen, experts, rows_a_tile, pdl=pdl)
        check_groups(found, chosen, experts, rows_a_tile)


def router_case(tokens: int, experts: int):
    x, norm = random(tokens, HIDDEN, scale=3), random(HIDDEN) * 0.1 + 1
    return x, norm, random(experts, HIDDEN, scale=HIDDEN**-0.5), random(experts)


def check_routed(routed, x, norm, weight, bias) -> None:
    """Experts are among the best of the float64 logits of the rounded rows, in order."""
    assert error(routed.normed, rms_norm(x.double(), norm.double(), EPS)) < 5e-3
    logits = routed.normed.double() @ weight.double().T + bias.double()
    best = logits.sort(-1, descending=True).values[:, :K]
    taken = logits.gather(1, routed.chosen.long())
    assert (taken - best).abs().max() < 1e-4
    assert (routed.shares - taken.softmax(-1)).abs().max() < 1e-4
    assert all(len(set(row)) == K for row in routed.chosen.tolist())


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tokens", [2, 16, 17, 40, 64, 65, 500, 512, 513, 2000, 8000])
@pytest.mark.parametrize("name", ["route_and_group", "route_and_group_triton"])
def test_route_and_group(name, experts, tokens):
    from ossia.kernels.router import triton_few

    case = router_case(tokens, experts)
    for pdl in pdl_modes() if experts == 32 else pdl_modes()[-1:]:
        for tile in (16, 256):
            routed, groups = getattr(triton_few, name)(*case, EPS, K, tile, pdl=pdl)
            check_routed(routed, *case)
            check_groups(groups, routed.chosen, experts, tile)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0),
    reason="this GPU has no clusters",
)
@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tokens", [2, 17, 65, 100, 128, 200, 256])
def test_route_and_group_in_one_launch(experts, tokens):
    from ossia.kernels.router.cuda_route import route_and_group_cuda

    case = router_case(tokens, experts)
    for pdl in pdl_modes():
        for tile in (16, 48, 256):
            routed, groups = route_and_group_cuda(*case, EPS, K, tile, pdl=pdl, fused=True)
            check_routed(routed, *case)
            check_groups(groups, routed.chosen, experts, tile)
            # The logits are the same sums, so the choices are the same bits.
            other, _ = route_and_group_cuda(*case, EPS, K, tile, pdl=pdl, fused=False)
            assert torch.equal(routed.chosen, other.chosen)
            assert torch.equal(routed.shares, other.shares)
            assert torch.equal(routed.normed, other.normed)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("experts", [32, 128])
def test_routing_again_and_again_gives_the_same_bits(experts, fused):
    from ossia.kernels.router.cuda_route import fits, route_and_group_cuda

    case = router_case(256, experts)
    if not fits(case[0], experts, K):
        pytest.skip("this GPU is no Hopper")
    first, first_groups = route_and_group_cuda(*case, EPS, K, 48, pdl=True, fused=fused)
    for _ in range(200):
        routed, groups = route_and_group_cuda(*case, EPS, K, 48, pdl=True, fused=fused)
        assert torch.equal(routed.chosen, first.chosen)
        assert torch.equal(groups.pair_of_row, first_groups.pair_of_row)


@pytest.mark.parametrize("tokens", [3, 600])
def test_equal_logits_go_to_the_lower_expert_and_nan_stays_in_range(tokens):
    from ossia.kernels.router.triton_few import route_and_group

    x, norm, weight, bias = router_case(tokens, 32)
    weight.zero_()
    bias.zero_()
    bias[1::2] = 1
    x[1] = float("nan")
    routed, groups = route_and_group(x, norm, weight, bias, EPS, K, 16)
    wanted = torch.tensor([1, 3, 5, 7], device="cuda").repeat(tokens, 1)
    wanted[1] = torch.arange(4)
    assert torch.equal(routed.chosen, wanted.int())
    assert (routed.shares[2:] == 0.25).all()
    check_groups(groups, routed.chosen, 32, 16)


@pytest.mark.parametrize("experts", [32, 128])
@pytest.mark.parametrize("tokens", [2, 65, 8000])
def test_route_alone(experts, tokens):
    from ossia.kernels.router.triton_many import RouteShape, route_many

    case = router_case(tokens, experts)
    for size in (16, 64):
        check_routed(route_many(*case, EPS, K, shape=RouteShape(tokens=size)), *case)


@pytest.mark.parametrize("tokens", [2, 64, 4096])
def test_combine(tokens):
    from ossia.kernels.router.triton_combine import combine as triton_combine

    x, y = random(tokens, HIDDEN), random(tokens * K, HIDDEN)
    shares = torch.randn(tokens, K, device="cuda").softmax(-1)
    norm = random(HIDDEN)
    truth, _ = combine(x.double(), y.double(), shares.double())
    for pdl in pdl_modes():
        out, none = triton_combine(x, y, shares, pdl=pdl)
        assert none is None
        assert error(out, truth) < 5e-3
        again, normed = triton_combine(x, y, shares, norm, EPS, pdl=pdl)
        assert torch.equal(again, out)
        assert error(normed, rms_norm(out.double(), norm.double(), EPS)) < 5e-3


def test_a_graph_of_dependent_launches_gives_the_same_bits_each_time():
    from ossia.kernels.router.triton_combine import combine as triton_combine
    from ossia.kernels.router.triton_few import route_and_group

    pdl = pdl_modes()[-1]
    case = router_case(40, 32)
    y = random(40 * K, HIDDEN)

    def step():
        x = case[0]
        for _ in range(8):
            routed, groups = route_and_group(x, *case[1:], EPS, K, 16, pdl=pdl)
            x, _ = triton_combine(x, y, routed.shares, pdl=pdl)
        return x, groups.pair_of_row, routed.chosen

    eager = step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()
    for _ in range(20):
        for tensor in kept:
            tensor.zero_()
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(kept, eager, strict=True))
