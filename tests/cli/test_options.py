from __future__ import annotations

import argparse
from dataclasses import fields

import pytest

from ossia.cli import build_parser
from ossia.cli.options import engine_config, engine_options
from ossia.cli.serve import _api_keys, server_config
from ossia.config import EngineConfig


def parsed(line: str) -> argparse.Namespace:
    return build_parser().parse_args(line.split())


def test_without_options_the_engine_has_its_defaults_and_the_demo_model() -> None:
    assert engine_config(parsed("serve")) == EngineConfig(model="demo")


def test_every_field_of_the_engine_has_an_option() -> None:
    line = (
        "serve org/model --device cpu --dtype float32 --quantization mxfp4 --load-format dummy "
        "--attention-backend torch --max-model-len 32k --max-num-seqs 3 "
        "--max-num-batched-tokens 2k --kv-cache-memory 2GiB --gpu-memory-utilization 0.5 "
        "--page-size 32 --no-prefix-caching --seed 7 --num-threads 2 --cpu-dense bf16"
    )
    config = engine_config(parsed(line))
    assert config == EngineConfig(
        model="org/model",
        device="cpu",
        dtype="float32",
        quantization="mxfp4",
        load_format="dummy",
        attention_backend="TORCH",
        max_model_len=32768,
        max_num_seqs=3,
        max_num_batched_tokens=2048,
        kv_cache_memory=2**31,
        gpu_memory_utilization=0.5,
        page_size=32,
        enable_prefix_caching=False,
        seed=7,
        num_threads=2,
        cpu_dense="bf16",
    )
    default = EngineConfig(model="demo")
    unset = [f.name for f in fields(config) if getattr(config, f.name) == getattr(default, f.name)]
    assert unset == []


@pytest.mark.parametrize("line", ["serve a", "serve --model a", "serve a --model a"])
def test_the_model_is_positional_or_an_option(line: str) -> None:
    assert engine_options(parsed(line))["model"] == "a"


@pytest.mark.parametrize(
    ("line", "on"),
    [("serve", True), ("serve --turn-grammar on", True), ("serve --turn-grammar off", False)],
)
def test_the_turn_grammar_is_on_unless_turned_off(line: str, on: bool) -> None:
    assert server_config(parsed(line)).turn_grammar is on


def test_keys_of_the_command_line_replace_those_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OSSIA_API_KEY", "one, two,")
    assert _api_keys(None) == ("one", "two")
    assert _api_keys(["three"]) == ("three",)
    monkeypatch.delenv("OSSIA_API_KEY")
    assert _api_keys(None) == ()
