"""The experts of steps of 65 to 512 tokens on a Hopper GPU, against a reference in float64."""

from __future__ import annotations

from dataclasses import replace

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
WAIT_LIMIT_NS = 2_000_000_000


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


def poison(*sizes: int) -> None:
    """Leave NaN in the memory that the next tensors of these sizes (in bfloat16) will get."""
    torch.cuda.synchronize()
    kept = [torch.full((size,), torch.nan, dtype=torch.bfloat16, device="cuda") for size in sizes]
    del kept


def chosen_experts(tokens: int, num_experts: int, *, among: int | None = None) -> Tensor:
    scores = torch.rand(tokens, among or num_experts, device="cuda")
    return scores.topk(K, dim=-1).indices.int()


def check(experts: HopperExperts, chosen: Tensor, rows: int, *, shape=None, pdl=True) -> None:
    """`shape`: the launch shape, the usual one of `rows` if left out."""
    from ossia.kernels.moe.cuda_decode_mid import experts_mid, mid_config

    tokens = len(chosen)
    normed = torch.randn(tokens, experts.hidden, device="cuda").bfloat16()
    groups = group(chosen, experts.num_experts, rows)
    config = shape or mid_config(rows, experts.hidden, experts.intermediate)
    config = replace(config, wait_limit_ns=WAIT_LIMIT_NS)
    poison(tokens * K * experts.intermediate, tokens * K * experts.hidden)
    y = experts_mid(normed, groups, experts, ALPHA, LIMIT, config=config, pdl=pdl)
    torch.cuda.synchronize()
    truth = reference(normed, chosen, experts)
    error = float((y.double() - truth).norm() / truth.norm())
    if error < TOLERANCE:
        return
    wrong = ~((y.double() - truth).abs() <= 0.05 * (1 + truth.abs()))  # or not finite
    row_of = torch.empty(tokens * K, dtype=torch.int64, device="cuda")
    row_of[groups.pair_of_row.long()] = torch.arange(tokens * K, device="cuda")
    rows_wrong = row_of[wrong.any(1)].sort().values.tolist()
    columns = wrong.any(0).nonzero().flatten()
    items = [
        f"expert {e}, rows {first}+{n}: {[r - first for r in rows_wrong if first <= r < first + n]}"
        for e, first, n, _ in groups.work[: groups.num_work.item()].tolist()
    ]
    pytest.fail(
        f"error {error:.2e}, {int(wrong.sum())} of {wrong.numel()} wrong, "
        f"{int((~torch.isfinite(y)).sum())} not finite; tiles of 64 columns "
        f"{(columns // 64).unique().tolist()}, columns within {(columns % 64).unique().tolist()}; "
        + "; ".join(items)[:2000]
    )


@pytest.mark.parametrize("tokens", [65, 100, 128, 256, 300, 512])
def test_even_routing(experts_of, tokens):
    from ossia.kernels.moe.cuda_decode_mid import mid_rows_a_tile

    check(experts_of(), chosen_experts(tokens, 32), mid_rows_a_tile(tokens, K, 32))


def test_plain_launch(experts_of):
    check(experts_of(), chosen_experts(128, 32), 32, pdl=False)


@pytest.mark.parametrize("rows", [24, 48, 96])
def test_few_experts_get_all_tokens(experts_of, rows):
    """They have several work items, and most experts none."""
    check(experts_of(), chosen_experts(200, 32, among=5), rows)


@pytest.mark.parametrize("count", [1, 8, 9, 31, 32, 33, 40, 41, 47, 48, 49, 97])
def test_items_of_every_size(experts_of, count):
    """All tokens choose the same experts: each has items of 48 rows and one of the rest."""
    check(experts_of(), chosen_experts(count, 32, among=K), 48)


@pytest.mark.parametrize("tokens", [128, 512])
def test_128_experts(experts_of, tokens):
    from ossia.kernels.moe.cuda_decode_mid import mid_rows_a_tile

    check(experts_of(128), chosen_experts(tokens, 128), mid_rows_a_tile(tokens, K, 128))


@pytest.mark.parametrize("rows", [16, 40, 80, 128])
def test_other_sizes(experts_of, rows):
    """Columns that do not divide into the usual stages, and an odd number of tiles."""
    check(experts_of(8, 448, 320), chosen_experts(101, 8), rows)


@pytest.mark.parametrize(
    "shape",
    [
        (32, 3, 2, 3, 3, 2),
        (48, 2, 3, 3, 3, 2),
        (48, 4, 1, 3, 5, 1),
        (64, 4, 1, 3, 4, 1, 48),
        (96, 3, 1, 3, 3, 1, 16),
        (64, 2, 2, 3, 3, 2),
        (64, 4, 1, 3, 2, 1, 32, 1),
    ],
    ids=str,
)
def test_launch_shapes(experts_of, shape):
    from ossia.kernels.moe.cuda_decode_mid import MidConfig

    config = MidConfig(*shape)
    check(
        experts_of(), chosen_experts(6 * config.rows_a_tile, 32), config.rows_a_tile, shape=config
    )


def test_a_graph_follows_new_routing_and_repeats_its_bits(experts_of):
    from ossia.kernels.moe.cuda_decode_mid import experts_mid

    experts = experts_of()
    normed = torch.randn(256, 2880, device="cuda").bfloat16()
    groups = group(chosen_experts(256, 32), 32, 48)

    def work() -> Tensor:
        return experts_mid(normed, groups, experts, ALPHA, LIMIT)

    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    for among in (32, 16, 32):
        normed.normal_()
        fresh = group(chosen_experts(256, 32, among=among), 32, 48)
        for name in ("offsets", "pair_of_row", "work", "num_work"):
            getattr(groups, name).copy_(getattr(fresh, name))
        graph.replay()
        assert torch.equal(captured, work())


def test_a_row_does_not_depend_on_its_batch(experts_of):
    """The same token alone with its experts, and among others in tiles of the same size."""
    from ossia.kernels.moe.cuda_decode_mid import experts_mid

    experts = experts_of()
    normed = torch.randn(128, 2880, device="cuda").bfloat16()
    chosen = chosen_experts(128, 32)
    whole = experts_mid(normed, group(chosen, 32, 32), experts, ALPHA, LIMIT)
    few = experts_mid(normed[:3].clone(), group(chosen[:3], 32, 32), experts, ALPHA, LIMIT)
    assert torch.equal(whole[: 3 * K], few)
