"""The files of the demo model that ship with the package."""

from __future__ import annotations

import json

from safetensors import safe_open

from ossia.checkpoint.demo import packed_directory
from ossia.config import model_config_from_hf
from training.demo import vocabulary
from training.demo.network import demo_config


def test_files_fit_the_repository_and_describe_the_demo_network() -> None:
    folder = packed_directory()
    assert sum(f.stat().st_size for f in folder.iterdir() if f.is_file()) <= 16 * 2**20
    assert model_config_from_hf(json.loads((folder / "config.json").read_text())) == demo_config()


def test_stored_rows_are_those_of_the_vocabulary_file() -> None:
    with safe_open(packed_directory() / "model.safetensors", "pt") as file:
        ids = file.get_tensor("token_ids").tolist()
        rows = file.get_slice("lm_head.weight").get_shape()[0]
        names = file.keys()
    assert ids == vocabulary.stored_ids()
    assert rows == len(ids) + 1
    assert "model.layers.0.mlp.experts.gate_up_proj_blocks" in names
