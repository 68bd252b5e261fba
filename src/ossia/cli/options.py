"""The options that several commands share: which model, and how the engine runs it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from ossia.cli.values import (
    byte_count,
    choice,
    not_empty,
    real_number,
    token_count,
    whole_number,
)
from ossia.config import EngineConfig
from ossia.errors import ConfigError

DEFAULT_MODEL = "demo"
_ENGINE_DEFAULTS = {field.name: field.default for field in fields(EngineConfig)}


def add_model(parser: argparse.ArgumentParser) -> None:
    """The positional MODEL and its alias `--model`; `chosen_model` reads them."""
    parser.add_argument(
        "model",
        nargs="?",
        type=not_empty,
        metavar="MODEL",
        help="a directory, a hub name such as openai/gpt-oss-20b, or demo (default: demo)",
    )
    parser.add_argument(
        "--model",
        dest="model_option",
        type=not_empty,
        metavar="MODEL",
        help="the same as the positional MODEL",
    )


def chosen_model(args: argparse.Namespace) -> str:
    """The model that `add_model` was given.

    Raises:
        ConfigError: two different models.
    """
    if args.model and args.model_option and args.model != args.model_option:
        raise ConfigError(
            f"Two models are named, {args.model!r} and {args.model_option!r}; leave one out."
        )
    return args.model or args.model_option or DEFAULT_MODEL


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Options of `EngineConfig`, with its defaults; `engine_config` reads them."""
    group = parser.add_argument_group("engine options")

    def option(flag: str, parse: Callable[[str], Any], metavar: str, text: str) -> None:
        name = flag[2:].replace("-", "_")
        default = _ENGINE_DEFAULTS[name]
        shown = "chosen at start-up" if default is None else default
        group.add_argument(
            flag, type=parse, default=default, metavar=metavar, help=f"{text} (default: {shown})"
        )

    devices, dtypes = ("auto", "cpu", "cuda"), ("auto", "bfloat16", "float32")
    formats, backends = ("auto", "dummy"), ("auto", "TRITON", "FLASH_ATTN_3", "TORCH")
    dense = ("int8", "bf16")
    positive = whole_number(1)
    option("--device", choice(*devices), "|".join(devices), "where the model runs")
    option("--dtype", choice(*dtypes), "|".join(dtypes), "number format of all but the experts")
    group.add_argument(
        "--quantization",
        type=choice("mxfp4"),
        metavar="mxfp4",
        help="quantise bfloat16 experts while loading (default: as the checkpoint stores them)",
    )
    option("--load-format", choice(*formats), "|".join(formats), "dummy: random weights, no files")
    option(
        "--attention-backend", choice(*backends), "|".join(backends), "implementation of attention"
    )
    option("--cpu-dense", choice(*dense), "|".join(dense), "weights outside the experts, on a CPU")
    option("--max-model-len", token_count, "TOKENS", "prompt and answer together; 32k means 32768")
    option("--max-num-seqs", positive, "N", "sequences that run at the same time")
    option("--max-num-batched-tokens", token_count, "TOKENS", "tokens computed in one step")
    option("--kv-cache-memory", byte_count, "SIZE", "memory for keys and values, such as 2GiB")
    option(
        "--gpu-memory-utilization",
        real_number(0, 1, low_open=True),
        "SHARE",
        "share of the GPU's memory to use",
    )
    option("--page-size", positive, "TOKENS", "tokens in one page of keys and values")
    group.add_argument(
        "--no-prefix-caching",
        dest="enable_prefix_caching",
        action="store_false",
        help="compute every prompt from its start (default: reuse what earlier prompts share)",
    )
    option("--seed", whole_number(0, 2**64 - 1), "N", "of requests without one, and dummy weights")
    option("--num-threads", positive, "N", "CPU threads of the model")


def engine_config(args: argparse.Namespace) -> EngineConfig:
    """The configuration that `add_model` and `add_engine_options` describe.

    Raises:
        ConfigError: a combination that cannot work.
    """
    values = {name: getattr(args, name) for name in _ENGINE_DEFAULTS if name != "model"}
    return EngineConfig(model=chosen_model(args), **values)


def engine_options(args: argparse.Namespace) -> dict[str, Any]:
    """The same as keyword arguments of `ossia.LLM`."""
    config = engine_config(args)
    return {field.name: getattr(config, field.name) for field in fields(config)}
