"""Queries, keys and values: the reference against the formula, the kernel against the reference.

The kernel runs in Triton's interpreter, in a process of its own, because the interpreter must be
chosen before Triton is first imported. `tests/gpu/test_dense_one.py` runs it on a GPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ossia.kernels.qkv.reference import project_qkv
from ossia.model.batch import LayerCache

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETING, reason="run by test_in_the_interpreter")
EPS = 1e-5


def test_in_the_interpreter(run_in_the_interpreter):
    run_in_the_interpreter(__file__, select="triton")


@dataclass(frozen=True)
class Case:
    """One layer's weights and a step of one or more tokens; free slots of the cache are NaN."""

    x: Tensor
    norm: Tensor
    weight: Tensor
    bias: Tensor
    positions: Tensor
    slots: Tensor
    cos_sin: Tensor
    cache: LayerCache

    def run(self, project, **options) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and the whole cache [slots, kv_heads, head_dim], keys and values, after it."""
        cache = LayerCache(self.cache.keys.clone(), self.cache.values.clone())
        step = (self.positions, self.slots, self.cos_sin, cache)
        q = project(self.x, self.norm, self.weight, self.bias, EPS, *step, **options)
        return q, cache.keys.flatten(0, 1), cache.values.flatten(0, 1)


def make(
    tokens: int,
    *,
    hidden: int = 48,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float32,
) -> Case:
    rng = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng).to(dtype)

    rows = (heads + 2 * kv_heads) * head_dim
    angles = torch.rand(50, head_dim // 2, generator=rng) * 6
    empty = torch.full((5, 4, kv_heads, head_dim), torch.nan, dtype=dtype)
    return Case(
        x=normal(tokens, hidden) * 3,
        norm=normal(hidden),
        weight=normal(rows, hidden),
        bias=normal(rows),
        positions=torch.randperm(50, generator=rng)[:tokens],
        slots=torch.randperm(20, generator=rng)[:tokens],
        cos_sin=torch.cat((angles.cos(), angles.sin()), dim=-1) * 1.3,
        cache=LayerCache(empty, empty.clone()),
    )


def test_reference_is_the_formula():
    case = make(3)
    q, keys, values = case.run(project_qkv)
    assert q.shape == (3, 4, 8)
    for t in range(3):
        x = case.x[t].double()
        normed = x / (x.square().mean() + EPS).sqrt() * case.norm.double()
        heads = (case.weight.double() @ normed + case.bias.double()).view(8, 8)
        turn = torch.complex(*case.cos_sin[case.positions[t]].double().chunk(2))
        turned = torch.complex(*heads[:6].chunk(2, dim=-1)) * turn
        turned = torch.cat((turned.real, turned.imag), dim=-1)
        slot = case.slots[t]
        for found, truth in (
            (q[t], turned[:4]),
            (keys[slot], turned[4:]),
            (values[slot], heads[6:]),
        ):
            torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-4)


def test_reference_writes_no_slots_of_others():
    case = make(3)
    for pool in case.run(project_qkv)[1:]:
        others = torch.ones(20, dtype=torch.bool).index_fill_(0, case.slots, False)
        assert pool[others].isnan().all()


@pytest.fixture
def project_one():
    from ossia.kernels.qkv.triton_one import project_qkv_one

    return project_qkv_one


@interpreted
@pytest.mark.parametrize(
    ("geometry", "rows", "piece"),
    [
        ({}, 2, 16),
        ({}, 4, 1024),
        ({}, 8, 32),
        ({"hidden": 40, "heads": 2, "kv_heads": 1, "head_dim": 64}, 4, 32),
        ({"hidden": 32, "heads": 3, "kv_heads": 1, "head_dim": 16}, 4, 32),
    ],
    ids=["a pair", "one piece", "whole head", "head size 64", "3 heads"],
)
def test_triton_matches_the_reference(project_one, geometry, rows, piece):
    from ossia.kernels.linear.triton_one import MatVecShape

    case = make(1, **geometry)
    found = case.run(project_one, shape=MatVecShape(rows, piece, warps=1))
    for mine, truth in zip(found, case.run(project_qkv), strict=True):
        torch.testing.assert_close(mine, truth, rtol=1e-4, atol=1e-4, equal_nan=True)


@interpreted
def test_triton_in_float16_is_closer_to_the_formula_than_the_reference(project_one):
    # Not bfloat16: the interpreter truncates to it, where a GPU rounds.
    case = make(1, hidden=96, dtype=torch.float16)
    wide = {name: getattr(case, name).double() for name in ("x", "norm", "weight", "bias")}
    cache = LayerCache(case.cache.keys.double(), case.cache.values.double())
    step = (case.positions, case.slots, case.cos_sin.double())
    truth = Case(**wide, positions=step[0], slots=step[1], cos_sin=step[2], cache=cache)
    slot = case.slots
    for mine, plain, exact in zip(
        case.run(project_one), case.run(project_qkv), truth.run(project_qkv), strict=True
    ):
        assert mine.dtype == torch.float16
        if len(exact) > 1:  # a pool of the cache
            mine, plain, exact = mine[slot], plain[slot], exact[slot]
        error = (mine.double() - exact).norm() / exact.norm()
        assert error <= (plain.double() - exact).norm() / exact.norm()
        assert error < 4e-4
