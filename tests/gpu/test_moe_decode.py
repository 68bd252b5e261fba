"""The experts of a decoding step on a Hopper GPU, against a reference in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ossia.kernels.moe.hopper_layout import HopperExperts, from_hopper, to_hopper
from ossia.kernels.router.groups import group
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor, unpack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
        reason="there is no Hopper GPU here",
    ),
]
ALPHA, LIMIT, K = 1.702, 7.0, 4
TOLERANCE = 5e-3


def random_experts(num_experts: int, hidden: int, intermediate: int) -> HopperExperts:
    def packed(rows: int, columns: int) -> Mxfp4Tensor:
        shape = (num_experts, rows, columns // 32)
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, device="cuda")
        return Mxfp4Tensor(blocks, torch.randint(118, 122, shape, dtype=torch.uint8, device="cuda"))

    def bias(size: int) -> Tensor:
        return torch.randn(num_experts, size, dtype=torch.bfloat16, device="cuda")

    return to_hopper(
        ExpertWeights(
            gate_up=packed(2 * intermediate, hidden),
            gate_up_bias=bias(2 * intermediate),
            down=packed(hidden, intermediate),
            down_bias=bias(hidden),
        )
    )


@pytest.fixture(scope="module")
def experts_of():
    made: dict[tuple[int, int, int], HopperExperts] = {}

    def make(num_experts: int = 32, hidden: int = 2880, intermediate: int = 2880) -> HopperExperts:
        key = (num_experts, hidden, intermediate)
        if key not in made:
            made[key] = random_experts(*key)
        return made[key]

    return make


def reference(normed: Tensor, chosen: Tensor, experts: HopperExperts) -> Tensor:
    """float64 [tokens * k, hidden]; the hidden activations are not rounded."""
    plain = from_hopper(experts)
    assert isinstance(plain.gate_up, Mxfp4Tensor)
    assert isinstance(plain.down, Mxfp4Tensor)
    tokens, k = chosen.shape
    y = torch.full((tokens * k, experts.hidden), torch.nan, dtype=torch.float64, device="cuda")
    pairs = chosen.flatten()
    for expert in pairs.unique().tolist():
        places = (pairs == expert).nonzero().flatten()
        gate_up = normed[places // k].double() @ unpack(plain.gate_up[expert], torch.float64).T
        gate_up += plain.gate_up_bias[expert].double()
        gate, up = gate_up[:, ::2].clamp(max=LIMIT), gate_up[:, 1::2].clamp(-LIMIT, LIMIT)
        h = gate * torch.sigmoid(ALPHA * gate) * (up + 1)
        y[places] = h @ unpack(plain.down[expert], torch.float64).T
        y[places] += plain.down_bias[expert].double()
    return y


def error(ours: Tensor, truth: Tensor) -> float:
    return float((ours.double() - truth).norm() / truth.norm())


def poison(*sizes: int) -> None:
    """Leave NaN in the memory that the next tensors of these sizes (in bfloat16) will get."""
    torch.cuda.synchronize()
    kept = [torch.full((size,), torch.nan, dtype=torch.bfloat16, device="cuda") for size in sizes]
    del kept


def chosen_experts(tokens: int, num_experts: int, *, among: int | None = None) -> Tensor:
    scores = torch.rand(tokens, among or num_experts, device="cuda")
    return scores.topk(K, dim=-1).indices.int()


@pytest.mark.parametrize("pdl", [True, False], ids=["dependent launch", "plain"])
@pytest.mark.parametrize("num_experts", [32, 128])
def test_one_token(experts_of, num_experts, pdl):
    from ossia.kernels.moe.cuda_decode import experts_one

    experts = experts_of(num_experts)
    x = torch.randn(1, 2880, dtype=torch.bfloat16, device="cuda")
    normed = torch.randn(1, 2880, dtype=torch.bfloat16, device="cuda")
    for _ in range(3):
        logits = torch.randn(num_experts, device="cuda")
        top = logits.topk(K)
        poison(K * 2880, 2880)
        out = experts_one(x, normed, logits, experts, K, ALPHA, LIMIT, pdl=pdl)
        shares = top.values.double().softmax(0)
        mixture = (shares[:, None] * reference(normed, top.indices[None], experts)).sum(0)
        assert error(out - x, mixture) < TOLERANCE * 2  # the sum was rounded to bf16
        assert error(out, x.double() + mixture) < TOLERANCE


def test_equal_logits_choose_the_lower_expert(experts_of):
    from ossia.kernels.moe.cuda_decode import experts_one

    for num_experts in (32, 128):
        experts = experts_of(num_experts)
        x = torch.zeros(1, 2880, dtype=torch.bfloat16, device="cuda")
        normed = torch.randn(1, 2880, dtype=torch.bfloat16, device="cuda")
        logits = torch.full((num_experts,), -3.0, device="cuda")
        logits[num_experts - 5] = -1.0
        out = experts_one(x, normed, logits, experts, K, ALPHA, LIMIT)
        best = torch.tensor([num_experts - 5, 0, 1, 2], device="cuda")
        shares = logits[best].double().softmax(0)
        truth = (shares[:, None] * reference(normed, best[None], experts)).sum(0)
        assert error(out, truth[None]) < TOLERANCE


@pytest.mark.parametrize(
    "config",
    [(5, 5, 5, 4, 1), (3, 8, 3, 8, 1), (9, 5, 5, 9, 2, 5), (5, 9, 5, 9, 4)],
    ids=str,
)
def test_launch_shapes_of_one_token_agree(experts_of, config):
    from ossia.kernels.moe.cuda_decode import OneConfig, experts_one

    x, normed = torch.randn(2, 1, 2880, device="cuda").bfloat16()
    logits = torch.randn(32, device="cuda")
    usual = experts_one(x, normed, logits, experts_of(), K, ALPHA, LIMIT)
    other = experts_one(x, normed, logits, experts_of(), K, ALPHA, LIMIT, config=OneConfig(*config))
    assert error(other, usual.double()) < TOLERANCE


def check_few(experts: HopperExperts, tokens: int, chosen: Tensor, rows: int, **options) -> None:
    from ossia.kernels.moe.cuda_decode import experts_few

    normed = torch.randn(tokens, experts.hidden, device="cuda").bfloat16()
    groups = group(chosen, experts.num_experts, rows)
    poison(tokens * K * experts.intermediate, tokens * K * experts.hidden)
    y = experts_few(normed, groups, experts, ALPHA, LIMIT, **options)
    assert error(y, reference(normed, chosen, experts)) < TOLERANCE


@pytest.mark.parametrize("pdl", [True, False], ids=["dependent launch", "plain"])
@pytest.mark.parametrize("tokens", [1, 2, 8, 32, 64, 100, 200, 256, 512])
def test_few_tokens(experts_of, tokens, pdl):
    from ossia.kernels.moe.cuda_decode import rows_a_tile

    chosen = chosen_experts(tokens, 32)
    check_few(experts_of(), tokens, chosen, rows_a_tile(tokens, K, 32), pdl=pdl)


@pytest.mark.parametrize("rows", [8, 16, 32])
def test_all_tokens_like_the_same_experts(experts_of, rows):
    """An expert has several work items, and most experts none."""
    check_few(experts_of(), 90, chosen_experts(90, 32, among=5), rows)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 25, 31, 32])
def test_items_of_every_size(experts_of, count):
    """All tokens choose the same experts: each has one item of `count` rows, in a tile of 32."""
    check_few(experts_of(), count, chosen_experts(count, 32, among=K), 32)


@pytest.mark.parametrize("rows", [8, 16, 32])
def test_other_sizes(experts_of, rows):
    """128 experts; and columns that do not divide into the usual stages."""
    check_few(experts_of(128), 40, chosen_experts(40, 128), rows)
    small = experts_of(8, 448, 320)
    check_few(small, 33, chosen_experts(33, 8), rows)


@pytest.mark.parametrize(
    "config",
    [
        (8, 4, 3, 1, 9, 4),
        (16, 4, 2, 1, 5, 3, 2),
        (32, 4, 2, 2, 5, 4),
        (32, 16, 1, 1, 3, 5),
        (16, 12, 1, 2, 3, 3),
        (32, 4, 1, 2, 3, 5),
        (8, 8, 1, 1, 5, 6),  # scales with each stage; then of several stages at once
        (8, 8, 1, 1, 5, 4, 1, 3),
        (8, 4, 2, 1, 5, 3, 2, 3),
        (32, 8, 2, 1, 5, 4, 1, 9),
        (32, 8, 1, 1, 3, 4, 1, 5),
        (32, 4, 1, 2, 3, 5, 1, 15),
    ],
    ids=str,
)
def test_launch_shapes_of_few_tokens_agree(experts_of, config):
    from ossia.kernels.moe.cuda_decode import FewConfig

    shape = FewConfig(*config)
    tokens = 4 * shape.rows_a_tile
    check_few(experts_of(), tokens, chosen_experts(tokens, 32), shape.rows_a_tile, config=shape)


def test_a_graph_replays_with_new_inputs(experts_of):
    from ossia.kernels.moe.cuda_decode import experts_few, experts_one

    experts = experts_of()
    x, normed = torch.randn(2, 1, 2880, device="cuda").bfloat16()
    logits = torch.randn(32, device="cuda")
    many = torch.randn(8, 2880, device="cuda").bfloat16()
    groups = group(chosen_experts(8, 32), 32, 8)

    def work() -> tuple[Tensor, Tensor]:
        return (
            experts_one(x, normed, logits, experts, K, ALPHA, LIMIT),
            experts_few(many, groups, experts, ALPHA, LIMIT),
        )

    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for _ in range(3):
        for tensor in (x, normed, logits, many):
            tensor.normal_()
        chosen = chosen_experts(8, 32)
        fresh = group(chosen, 32, 8)
        for name in ("offsets", "pair_of_row", "work", "num_work"):
            getattr(groups, name).copy_(getattr(fresh, name))
        graph.replay()
        for ours, eager in zip(captured, work(), strict=True):
            assert torch.equal(ours, eager)
