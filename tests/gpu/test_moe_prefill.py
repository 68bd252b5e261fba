"""Experts over many rows on a Hopper GPU, against float64; errors say where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.kernels.moe.hopper_layout import to_hopper
from ossia.kernels.router.groups import Groups, group
from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor, unpack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9,
        reason="there is no Hopper GPU here",
    ),
]
K, ALPHA, LIMIT = 4, 1.702, 7.0
WAIT_LIMIT_NS = 2_000_000_000
TOLERANCE = 5e-3  # norm of the difference over the norm
SMALL = (8, 320, 192)  # experts, hidden (its last tile is a half), intermediate
LARGE = (32, 2880, 2880)


@pytest.fixture
def prefill():
    """The kernels' module, with waits that end in an error instead of a hang."""
    from ossia.kernels.moe import cuda_prefill

    return cuda_prefill


@pytest.fixture
def careful(prefill):
    return replace(prefill.DEFAULT, wait_limit_ns=WAIT_LIMIT_NS)


@pytest.fixture
def careful_few(prefill):
    return replace(prefill.FEW, wait_limit_ns=WAIT_LIMIT_NS)


def random_matrix(experts: int, rows: int, columns: int) -> Mxfp4Tensor:
    blocks = torch.randint(
        0, 256, (experts, rows, columns // 32, 16), dtype=torch.uint8, device="cuda"
    )
    # Scales that give outputs around 1 whatever the size, each block one of two.
    code = 127 - 2 - round(torch.tensor(columns).log2().item() / 2)
    scales = torch.randint(
        code, code + 2, (experts, rows, columns // 32), dtype=torch.uint8, device="cuda"
    )
    return Mxfp4Tensor(blocks, scales)


def random_experts(experts: int, hidden: int, intermediate: int) -> ExpertWeights:
    def bias(columns: int) -> Tensor:
        return torch.randn(experts, columns, device="cuda").bfloat16()

    return ExpertWeights(
        gate_up=random_matrix(experts, 2 * intermediate, hidden),
        gate_up_bias=bias(2 * intermediate),
        down=random_matrix(experts, hidden, intermediate),
        down_bias=bias(hidden),
    )


def choices(tokens: int, experts: int, routing: str) -> Tensor:
    """int32 [tokens, K]; "skewed" leaves experts without rows and gives others very many."""
    scores = torch.rand(tokens, experts, device="cuda")
    if routing == "skewed":
        scores += torch.arange(experts, device="cuda") / experts * 1.5
    return scores.topk(K).indices.int()


def truth(x: Tensor, groups: Groups, weights: ExpertWeights) -> tuple[Tensor, Tensor]:
    """h [rows, intermediate] in sorted order and y [pairs, hidden] in order of pairs, float64."""
    offsets, pairs = groups.offsets.tolist(), groups.pair_of_row.long()
    y = torch.full((len(pairs), x.shape[1]), torch.nan, dtype=torch.float64, device="cuda")
    hs = []
    for expert, (first, last) in enumerate(pairwise(offsets)):
        rows = pairs[first:last]
        both = x[rows // K].double() @ unpack(weights.gate_up[expert], torch.float64).T
        both += weights.gate_up_bias[expert].double()
        gate = both[:, ::2].clamp(max=LIMIT)
        up = both[:, 1::2].clamp(-LIMIT, LIMIT)
        hs.append(gate * torch.sigmoid(ALPHA * gate) * (up + 1))
        down = unpack(weights.down[expert], torch.float64)
        y[rows] = hs[-1] @ down.T + weights.down_bias[expert].double()
    return torch.cat(hs), y


def natural(
    h: Tensor, groups: Groups, config: Any, padded_rows: Callable[[int, Any], int]
) -> Tensor:
    """h as the first half leaves it -> [rows, intermediate] in sorted order."""
    width = h.shape[1]
    out = torch.full((len(groups.pair_of_row), width), torch.nan, device="cuda")
    for expert, first, rows, _ in groups.work[: groups.num_work.item()].tolist():
        padded = padded_rows(rows, config)
        tile = h[first + 127 * expert :][:padded].reshape(width // 64, padded, 8, 8)
        row = torch.arange(padded, device="cuda")[:, None]
        places = torch.arange(8, device="cuda") ^ (row % 8)
        tile = tile.gather(2, places[None, :, :, None].expand_as(tile))
        out[first : first + rows] = tile.permute(1, 0, 2, 3).reshape(padded, width)[:rows]
    return out


def check(what: str, found: Tensor, wanted: Tensor, groups: Groups, row_of: Tensor) -> None:
    """Compare [n, columns]; where they differ, say which experts, rows and columns are wrong.

    row_of: the sorted row of each of the n.
    """
    wrong = (found.double() - wanted).abs() > 0.05 * (1 + wanted.abs())
    wrong |= ~torch.isfinite(found)
    error = ((found.double() - wanted).norm() / wanted.norm()).item()
    if error < TOLERANCE and not wrong.any():
        return
    rows = row_of[wrong.any(1)].sort().values
    columns = wrong.any(0).nonzero().flatten()
    work = groups.work[: groups.num_work.item()].cpu()
    tiles = [
        f"expert {e} rows {first}+{rows_}: wrong {sorted(set((bad - first).tolist()))[:6]}.."
        for e, first, rows_, _ in work.tolist()
        if len(bad := rows[(rows >= first) & (rows < first + rows_)])
    ]
    at = wrong.nonzero()[:4].tolist()
    samples = [(i, j, found[i, j].item(), wanted[i, j].item()) for i, j in at]
    pytest.fail(
        f"{what}: error {error:.2e}, {wrong.sum()} of {wrong.numel()} values wrong, "
        f"{(~torch.isfinite(found)).sum()} not finite\n"
        f"  columns mod 128: {sorted(set((columns % 128).tolist()))[:16]} "
        f"of tiles {sorted(set((columns // 128).tolist()))[:16]}\n"
        f"  {len(tiles)} of {len(work)} work items: {tiles[:6]}\n"
        f"  (row, column, found, wanted): {samples}"
    )


def poison(*shapes: tuple[int, ...]) -> None:
    """Fill memory that the next allocations of these shapes will get with NaN."""
    for one in [torch.full(shape, torch.nan, device="cuda").bfloat16() for shape in shapes]:
        del one


def run_both(prefill, config, x: Tensor, groups: Groups, weights: ExpertWeights) -> None:
    experts = to_hopper(weights)
    h_true, y_true = truth(x, groups, weights)
    pairs = len(groups.pair_of_row)
    in_order = torch.arange(pairs, device="cuda")
    shape = (prefill.hidden_rows(pairs, experts.num_experts), experts.intermediate)
    poison(shape)
    h = prefill.gate_up_many(x, groups, experts, ALPHA, LIMIT, config=config)
    torch.cuda.synchronize()
    check("h", natural(h, groups, config, prefill.padded_rows), h_true, groups, in_order)
    del h
    poison(shape, (pairs, experts.hidden))
    y = prefill.experts_many(x, groups, experts, ALPHA, LIMIT, config=config)
    torch.cuda.synchronize()
    row_of = torch.empty_like(in_order)
    row_of[groups.pair_of_row.long()] = in_order
    check("y", y, y_true, groups, row_of)


def test_one_hot_tokens_show_single_columns_of_the_weights(prefill, careful):
    # Token t sees column t alone: a wrong row of h names the chunk (t // 64) and step (t % 64 //
    # 16) of the product that is wrong. No products are added up, so the answer is nearly exact.
    count, hidden, _ = SMALL
    weights = random_experts(*SMALL)
    x = torch.eye(hidden, device="cuda").bfloat16() * 16
    chosen = (torch.arange(hidden, device="cuda")[:, None] + torch.arange(K, device="cuda")) % count
    groups = group(chosen.int(), count, prefill.ROWS_A_TILE)
    h_true, _ = truth(x, groups, weights)
    h = prefill.gate_up_many(x, groups, to_hopper(weights), ALPHA, LIMIT, config=careful)
    found = natural(h, groups, careful, prefill.padded_rows)
    wrong = ((found - h_true).abs() > 0.02 * (1 + h_true.abs())) | ~torch.isfinite(found)
    column = groups.pair_of_row.long() // K
    bad = column[wrong.any(1)].unique()
    units = wrong.any(0).nonzero().flatten()
    assert not wrong.any(), (
        f"columns of weights: chunks {(bad // 64).unique().tolist()}, steps "
        f"{(bad % 64 // 16).unique().tolist()}, within a step {(bad % 16).unique().tolist()}; "
        f"units: {units[:20].tolist()} of {len(units)}, in groups of 8: "
        f"{(units // 8).unique().tolist()[:20]}, rows of tiles {(units % 8).unique().tolist()}"
    )


@pytest.mark.parametrize("routing", ["even", "skewed"])
@pytest.mark.parametrize("tokens", [1, 40, 130, 700])
def test_small_experts_agree_with_float64(prefill, careful, tokens, routing):
    count, hidden, _ = SMALL
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    groups = group(choices(tokens, count, routing), count, prefill.ROWS_A_TILE)
    run_both(prefill, careful, x, groups, random_experts(*SMALL))


@pytest.mark.parametrize("routing", ["even", "skewed"])
@pytest.mark.parametrize("tokens", [1, 40, 130, 700])
def test_small_tiles_agree_with_float64(prefill, careful_few, tokens, routing):
    count, hidden, _ = SMALL
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    groups = group(choices(tokens, count, routing), count, careful_few.rows)
    run_both(prefill, careful_few, x, groups, random_experts(*SMALL))


@pytest.mark.parametrize(
    ("tiles", "change"),
    [
        (64, {}),
        (128, {"cluster": 1}),
        (128, {"depth": 2}),
        (256, {"depth": 2, "stagger": 1}),
        (256, {"cluster": 1, "placed": False, "stagger": 2}),
    ],
)
def test_other_configurations_agree_with_float64(prefill, careful, careful_few, tiles, change):
    tokens, (count, hidden, _) = 300, SMALL
    config = replace(careful if tiles == 256 else careful_few, **change)
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    groups = group(choices(tokens, count, "skewed"), count, tiles)
    run_both(prefill, config, x, groups, random_experts(*SMALL))


@pytest.mark.parametrize(("tokens", "routing"), [(640, "even"), (1100, "even"), (1500, "skewed")])
def test_small_tiles_in_the_geometry_of_gpt_oss_agree_with_float64(
    prefill, careful_few, tokens, routing
):
    x = torch.randn(tokens, LARGE[1], device="cuda").bfloat16()
    groups = group(choices(tokens, LARGE[0], routing), LARGE[0], careful_few.rows)
    run_both(prefill, careful_few, x, groups, random_experts(*LARGE))


@pytest.mark.parametrize(("tokens", "routing"), [(600, "even"), (1500, "skewed"), (8000, "even")])
def test_the_geometry_of_gpt_oss_agrees_with_float64(prefill, careful, tokens, routing):
    x = torch.randn(tokens, LARGE[1], device="cuda").bfloat16()
    groups = group(choices(tokens, LARGE[0], routing), LARGE[0], prefill.ROWS_A_TILE)
    run_both(prefill, careful, x, groups, random_experts(*LARGE))


@pytest.mark.parametrize("tiles", [128, 256])
def test_a_graph_follows_new_routing_and_repeats_its_bits(prefill, tiles):
    count, hidden, _ = SMALL
    tokens = 700
    weights = random_experts(*SMALL)
    experts = to_hopper(weights)
    x = torch.randn(tokens, hidden, device="cuda").bfloat16()
    groups = group(choices(tokens, count, "even"), count, tiles)
    prefill.experts_many(x, groups, experts, ALPHA, LIMIT)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = prefill.experts_many(x, groups, experts, ALPHA, LIMIT)
    other = group(choices(tokens, count, "skewed"), count, tiles)
    for name in ("offsets", "pair_of_row", "work", "num_work"):
        getattr(groups, name).copy_(getattr(other, name))
    graph.replay()
    torch.cuda.synchronize()
    first = y.clone()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(first, y)
    _, y_true = truth(x, other, weights)
    assert ((y.double() - y_true).norm() / y_true.norm()).item() < TOLERANCE
