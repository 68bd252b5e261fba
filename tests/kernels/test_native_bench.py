"""`ossia bench kernels`: what it prints, with a few made-up measurements."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ossia.cli import main
from ossia.kernels.native.library import status
from ossia.kernels.native.measure import Measurement

pytestmark = pytest.mark.skipif(not status().available, reason="the CPU library was not built")


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Measurement("plain_read", "GB/s", 30.0, 30.0),
        Measurement("expert_gemv", "GB/s", 27.0, 30.0),
        Measurement("expert_gemm_64_tokens", "GFLOP/s", 660.0, 600.0),
    ]
    monkeypatch.setattr("ossia.kernels.native.measure.measure", lambda *_, **__: found)


def test_json_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--device", "cpu", "--json", "--level", "portable"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["level"] == "portable"
    assert printed["kernels"][1:] == [
        {"name": "expert_gemv", "gb_s": 27.0, "share_of_ceiling": 0.9},
        {"name": "expert_gemm_64_tokens", "gflop_s": 660.0, "share_of_ceiling": 1.1},
    ]


def test_a_table_is_the_default_and_json_can_go_to_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "kernels.json"
    assert main(["bench", "kernels", "--json", str(file), "--threads", "1"]) == 0
    printed = capsys.readouterr().out
    assert "expert_gemv" in printed
    assert "90%" in printed
    assert json.loads(file.read_text())["threads"] == 1


def test_a_level_that_is_not_there_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--level", "avx9000"]) != 0
    assert "no level 'avx9000'" in capsys.readouterr().err
