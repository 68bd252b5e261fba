"""The benchmarks against a tiny model: their figures exist and fit together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import Run, Server


def test_serve_measures_every_level(ossia: Run, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "serve.json"
    result = ossia(
        *("bench", "serve", "--url", server.url, "--api-key", "secret", "--concurrency", "1,4"),
        *("--num-requests", "6", "--input-len", "8-16", "--output-len", "10", "--json", file),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "outside model" in result.stdout
    figures = json.loads(file.read_text())
    assert [row["concurrency"] for row in figures["rows"]] == [1, 4]
    for row in figures["rows"]:
        assert row["requests"] == 6
        assert row["errors"] == row["unfinished"] == 0
        assert row["output_tokens"] == 60
        assert row["time_to_first_token"]["count"] == 6
        assert 0 < row["time_to_first_token"]["median"] <= row["time_to_first_token"]["p99"]
        assert row["output_tokens_per_second"] == pytest.approx(60 / row["seconds"])
        assert 0 <= row["share_in_steps_outside_model"] < row["share_outside_model"] < 1


def test_many_streams_are_read_by_several_processes(
    ossia: Run, server: Server, tmp_path: Path
) -> None:
    file = tmp_path / "serve.json"
    result = ossia(
        *("bench", "serve", "--url", server.url, "--api-key", "secret", "--concurrency", "40"),
        *("--num-requests", "44", "--input-len", "8", "--output-len", "3", "--json", file),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (row,) = json.loads(file.read_text())["rows"]
    assert row["requests"] == 44
    assert row["output_tokens"] == 132
    assert row["errors"] == row["unfinished"] == 0


def test_serve_asks_the_questions_of_the_demo(ossia: Run, server: Server) -> None:
    result = ossia(
        *("bench", "serve", "--url", server.url, "--api-key", "secret", "--prompts", "demo"),
        *("--concurrency", "2", "--num-requests", "2", "--output-len", "6"),
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_serve_stops_at_its_time_limit(ossia: Run, server: Server) -> None:
    result = ossia(
        *("bench", "serve", "--url", server.url, "--api-key", "secret", "--concurrency", "2"),
        *("--num-requests", "50", "--output-len", "500", "--max-seconds", "1"),
    )
    assert result.returncode == 1
    assert "requests cut off by --max-seconds" in result.stdout


def test_serve_reports_refused_requests(ossia: Run, server: Server) -> None:
    result = ossia(
        *("bench", "serve", "--url", server.url, "--api-key", "secret", "--input-len", "5000")
    )
    assert result.returncode == 1
    assert "The server refused the first request: status 400: " in result.stderr


def test_latency_times_equal_batches(ossia: Run, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "latency.json"
    result = ossia(
        *("bench", "latency", tiny_model, "--load-format", "dummy", "--num-threads", "1"),
        *("--batch-size", "2", "--input-len", "8", "--output-len", "5"),
        *("--num-warmup", "1", "--num-iters", "3", "--json", file),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    seconds = figures["seconds"]
    assert figures["batches"] == seconds["batch"]["count"] == 3
    assert seconds["inter-token_latency"]["count"] == 3 * 2 * 4
    assert 0 < seconds["time_to_first_token"]["median"] < seconds["batch"]["median"]


def test_throughput_counts_every_token(ossia_here: Run, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "throughput.json"
    result = ossia_here(
        *("bench", "throughput", tiny_model, "--load-format", "dummy", "--num-threads", "1"),
        *("--num-requests", "5", "--input-len", "4-8", "--output-len", "7", "--json", file),
    )
    assert result.returncode == 0, result.stderr
    figures = json.loads(file.read_text())
    assert figures["finished"] == 5
    assert figures["output_tokens"] == 35
    assert 20 <= figures["prompt_tokens"] <= 40
    assert figures["output_tokens_per_s"] == pytest.approx(35 / figures["seconds"])


def test_lengths_beyond_the_context_are_refused(ossia_here: Run, tiny_model: Path) -> None:
    result = ossia_here(
        *("bench", "latency", tiny_model, "--load-format", "dummy", "--input-len", "4096")
    )
    assert result.returncode == 2
    assert "the engine's context is 4096" in result.stderr


def test_a_json_file_that_cannot_be_written_is_refused_at_once(ossia: Run, tmp_path: Path) -> None:
    result = ossia("bench", "latency", "--json", tmp_path / "missing" / "x.json")
    assert result.returncode == 1
    assert "cannot be written" in result.stderr
