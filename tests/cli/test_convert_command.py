from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run


def test_a_model_is_made_unpacked_and_packed_again(
    ossia: Run, ossia_here: Run, tiny_model: Path, tmp_path: Path
) -> None:
    random, plain, packed = tmp_path / "random", tmp_path / "plain", tmp_path / "packed"

    made = ossia("convert", tiny_model, random, "--load-format", "dummy")
    assert made.returncode == 0, made.stderr
    assert f"Wrote {random}: hf layout, mxfp4 experts" in made.stdout
    config = json.loads((random / "config.json").read_text())
    assert config["architectures"] == ["GptOssForCausalLM"]

    unpacked = ossia_here("convert", random, plain, "--expert-dtype", "bfloat16")
    assert unpacked.returncode == 0, unpacked.stderr
    assert "quantization_config" not in json.loads((plain / "config.json").read_text())

    repacked = ossia_here("convert", plain, packed, "--quantize", "mxfp4", "--layout", "original")
    assert repacked.returncode == 0, repacked.stderr
    assert f"Wrote {packed}: original layout, mxfp4 experts" in repacked.stdout
    assert "MXFP4 error of gate_up: 0.00% relative RMS" in repacked.stdout


def test_a_target_in_use_is_refused(ossia_here: Run, tiny_model: Path) -> None:
    result = ossia_here("convert", tiny_model, tiny_model, "--load-format", "dummy")
    assert result.returncode == 1
    assert f"{tiny_model} is not empty" in result.stderr
