"""Grouping: the reference says what it means; the kernel agrees, in Triton's interpreter."""

from __future__ import annotations

import os

import pytest
import torch

from ossia.kernels.router.groups import group

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


def choices(tokens, experts, k=4):
    """Different experts for each token, some far more often than others."""
    return torch.rand(tokens, experts).pow(torch.arange(experts)).topk(k).indices.int()


@pytest.mark.parametrize("tokens", [1, 7, 300])
@pytest.mark.parametrize("rows_a_tile", [1, 16, 128])
def test_every_pair_is_in_one_work_item_of_its_expert(tokens, rows_a_tile):
    chosen = choices(tokens, 32)
    groups = group(chosen, 32, rows_a_tile)
    items = groups.work[: groups.num_work.item()].tolist()
    assert groups.num_work.item() <= len(groups.work)
    rows = [(e, r) for e, first, count, _ in items for r in range(first, first + count)]
    assert [r for _, r in rows] == list(range(tokens * 4))
    flat = chosen.flatten()
    for expert, row in rows:
        assert groups.offsets[expert] <= row < groups.offsets[expert + 1]
        assert flat[groups.pair_of_row[row]] == expert
    assert all(1 <= count <= rows_a_tile for _, _, count, _ in items)
    assert [item[0] for item in items] == sorted(item[0] for item in items)


def test_an_expert_gets_its_pairs_in_order_of_token():
    groups = group(choices(200, 32), 32, 16)
    for expert in range(32):
        begin, end = groups.offsets[expert : expert + 2].tolist()
        pairs = groups.pair_of_row[begin:end].tolist()
        assert pairs == sorted(pairs)


@interpreted
@pytest.mark.parametrize(
    ("tokens", "experts", "block"),
    [(1, 32, None), (50, 32, None), (70, 32, None), (90, 8, (64, 4)), (7, 128, None)],
)
def test_triton_matches_the_reference(tokens, experts, block):
    from ossia.kernels.router.triton_groups import group as triton_group

    chosen = choices(tokens, experts)
    found = triton_group(chosen, experts, 16, block=block)
    wanted = group(chosen, experts, 16)
    assert torch.equal(found.offsets, wanted.offsets)
    assert torch.equal(found.pair_of_row, wanted.pair_of_row)
    assert torch.equal(found.num_work, wanted.num_work)
    count = wanted.num_work.item()
    assert found.work.shape == wanted.work.shape
    assert torch.equal(found.work[:count], wanted.work[:count])
