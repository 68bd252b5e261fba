from __future__ import annotations

import math
import random

import numpy as np
import pytest

from ossia.cli.bench.metrics import EngineSeconds, parse_engine_seconds, time_shares
from ossia.cli.bench.statistics import milliseconds, percentile, summarize
from ossia.cli.bench.workload import demo_requests, random_requests


@pytest.mark.parametrize("count", [1, 2, 3, 10, 101])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 0.99, 1.0])
def test_percentiles_agree_with_numpy(count: int, share: float) -> None:
    values = sorted(random.Random(count).random() for _ in range(count))
    assert percentile(values, share) == pytest.approx(float(np.quantile(values, share)))


def test_a_summary_does_not_need_sorted_values() -> None:
    summary = summarize([3.0, 1.0, 2.0])
    assert (summary.count, summary.mean, summary.median, summary.maximum) == (3, 2.0, 2.0, 3.0)


def test_nothing_measured_is_nan_and_shown_as_a_dash() -> None:
    summary = summarize([])
    assert summary.count == 0
    assert math.isnan(summary.median)
    assert milliseconds(summary.median) == "-"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3 ms"), (9.5, "9500.0 ms"), (12.34, "12.3 s")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert milliseconds(seconds) == text


def test_random_requests_are_the_same_for_the_same_seed() -> None:
    def make(seed: int) -> list[object]:
        return [
            (r.path, r.body)
            for r in random_requests(
                20, model="m", input_length=(5, 9), output_length=(2, 4), seed=seed
            )
        ]

    assert make(1) == make(1) != make(2)


def test_random_requests_have_the_lengths_asked_for() -> None:
    for request in random_requests(
        50, model="m", input_length=(5, 9), output_length=(2, 4), seed=0
    ):
        assert 5 <= len(request.body["prompt"]) <= 9
        assert 2 <= request.body["max_tokens"] <= 4
        assert request.body["ignore_eos"]
        assert max(request.body["prompt"]) < 199998  # no special token


def test_demo_requests_end_by_themselves() -> None:
    for request in demo_requests(10, model="m", output_length=(1, 64), seed=0):
        assert "ignore_eos" not in request.body
        assert request.body["max_completion_tokens"] == 64


def test_time_shares_add_up_to_one() -> None:
    shares = time_shares(EngineSeconds(10.0, 8.0), EngineSeconds(19.0, 14.0), 10.0)
    assert shares.model == pytest.approx(0.6)
    assert shares.step == pytest.approx(0.3)
    assert shares.outside == pytest.approx(0.1)
    assert shares.not_model == pytest.approx(0.4)


def test_time_shares_are_unknown_without_counters() -> None:
    assert math.isnan(time_shares(None, EngineSeconds(1.0, 1.0), 1.0).not_model)


def test_counters_are_found_in_prometheus_text() -> None:
    text = (
        "# HELP ossia_engine_step_seconds_total x\n"
        "# TYPE ossia_engine_step_seconds_total counter\n"
        "ossia_engine_step_seconds_total 2.5\n"
        "# TYPE ossia_engine_model_seconds_total counter\n"
        "ossia_engine_model_seconds_total 1.5\n"
    )
    assert parse_engine_seconds(text) == EngineSeconds(step=2.5, model=1.5)
    assert parse_engine_seconds("other 1\n") is None
