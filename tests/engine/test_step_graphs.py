"""Which batch sizes have a CUDA graph, and that steps run in whole buckets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ossia.engine.step_graphs import StepGraphs, buckets


@given(st.integers(1, 2000))
def test_every_batch_has_a_bucket_that_wastes_little(max_rows: int) -> None:
    sizes = buckets(max_rows)
    assert sizes[-1] == max_rows
    assert list(sizes) == sorted(set(sizes))
    for small, large in zip((0, *sizes), sizes, strict=False):
        assert large - (small + 1) <= max(1, small // 8)


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (9, 10), (33, 36), (130, 144), (256, 256)])
def test_a_step_runs_in_the_next_bucket(rows: int, bucket: int) -> None:
    graphs = StepGraphs(lambda n: torch.zeros(n), buckets(256), capturable=False)
    assert graphs.bucket(rows) == bucket


def test_without_capturing_every_step_is_called() -> None:
    called: list[int] = []

    def step(rows: int) -> torch.Tensor:
        called.append(rows)
        return torch.zeros(rows)

    graphs = StepGraphs(step, buckets(4), capturable=False)
    assert len(graphs.run(3)) == 3
    graphs.run(3)
    assert called == [3, 3]
    assert graphs.missing() is None


def test_graphs_of_common_sizes_are_prepared_first() -> None:
    graphs = StepGraphs(lambda n: torch.zeros(n), buckets(256), capturable=True)
    assert graphs.missing() == 1
