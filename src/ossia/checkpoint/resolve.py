"""From the name a user gives a model to the files it stands for, or to a geometry without files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ossia.checkpoint import demo, hub
from ossia.checkpoint.dummy import GEOMETRIES
from ossia.checkpoint.reader import tensor_files
from ossia.checkpoint.tensor_files import read_header
from ossia.config import ModelConfig, model_config_from_hf, model_config_from_original
from ossia.errors import CheckpointError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CHOICES = "use demo, the directory of a checkpoint, or a hub name such as openai/gpt-oss-20b"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A model that was found, its weights not yet read."""

    path: Path | None  # the directory with the weights; None for random ones
    name: str  # what to call the model
    layout: Literal["hf", "original", "dummy"]
    config: ModelConfig


def resolve_model(
    name: str,
    *,
    load_format: Literal["auto", "dummy"] = "auto",
    progress: Callable[[str], None] = lambda message: None,
) -> ModelSource:
    """Find a model by "demo", a directory, or a hub name such as openai/gpt-oss-20b.

    Hub models come from the local cache if they are complete there, without the network, and are
    downloaded otherwise. With `load_format` "dummy" only a geometry is wanted: also gpt-oss-20b,
    gpt-oss-120b, or a config.json by itself.

    Raises:
        CheckpointError: there is no such model, or it cannot be had here; says what to do.
    """
    if not name:
        raise _unknown(name)
    try:
        return _resolve_dummy(name) if load_format == "dummy" else _resolve(name, progress)
    except OSError as error:  # a directory that may not be read, a name that is too long
        raise CheckpointError(f"{name} cannot be read: {error.strerror or error}.") from error


def _resolve(name: str, progress: Callable[[str], None]) -> ModelSource:
    path = Path(name).expanduser()
    if name == "demo":
        return replace(_from_directory(demo.expand(progress), name), name="demo")
    if path.is_dir():
        return _from_directory(path, _directory_name(path))
    if path.exists():
        raise CheckpointError(
            f"{name} is a file: give the directory that holds config.json and the weights."
        )
    if _HUB_NAME.fullmatch(name):
        return replace(_from_directory(hub.snapshot(name, progress), name), name=name)
    if name in GEOMETRIES:
        raise CheckpointError(
            f"{name} is called openai/{name}; for random weights add --load-format dummy."
        )
    raise _unknown(name)


def _unknown(name: str) -> CheckpointError:
    if "/" in name or "\\" in name or name.startswith(("~", ".")):
        return CheckpointError(f"{name} does not exist: {_CHOICES}.")
    return CheckpointError(f"There is no model {name!r}: {_CHOICES}.")


def _directory_name(path: Path) -> str:
    resolved = path.resolve()
    return resolved.parent.name if resolved.name == "original" else resolved.name


def _from_directory(directory: Path, name: str) -> ModelSource:
    original = directory / "original"
    has_config = (directory / "config.json").is_file()
    has_weights = any(directory.glob("*.safetensors"))
    if not (has_config and has_weights) and (original / "config.json").is_file():
        directory, has_config = original, True
    if not has_config:
        raise CheckpointError(
            f"{directory} has no config.json: give the directory of a gpt-oss checkpoint."
        )
    layout, config = _read_config(directory / "config.json")
    if layout == "original":
        # config.json of this layout does not say how the experts are stored; their names do.
        names = {n for file in tensor_files(directory, layout) for n in read_header(file)}
        packed = any(n.endswith("mlp1_weight.blocks") for n in names)
        config = replace(config, expert_format="mxfp4" if packed else "bf16")
    return ModelSource(directory, name, layout, config)


def _read_config(file: Path) -> tuple[Literal["hf", "original"], ModelConfig]:
    try:
        raw: Any = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}).") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file} is not the configuration of a model.")
    try:
        if "num_experts" in raw and "architectures" not in raw and "model_type" not in raw:
            return "original", model_config_from_original(raw)
        return "hf", model_config_from_hf(raw)
    except CheckpointError as error:
        raise CheckpointError(error.message.replace("config.json", str(file), 1)) from error


def _resolve_dummy(name: str) -> ModelSource:
    path = Path(name).expanduser()
    geometry = GEOMETRIES.get(name.removeprefix("openai/"))
    if name == "demo":
        file = demo.packed_directory() / "config.json"
    elif path.is_dir():
        file = path / "config.json"
        if not file.is_file() and (path / "original" / "config.json").is_file():
            file = path / "original" / "config.json"
        name = _directory_name(path)
    elif path.is_file():
        file, name = path, _directory_name(path.parent)
    elif geometry is not None:
        return ModelSource(None, name, "dummy", geometry)
    elif _HUB_NAME.fullmatch(name):
        file = hub.config_file(name)
    else:
        raise CheckpointError(
            f"There is no geometry {name!r}: use {', '.join(GEOMETRIES)}, a config.json, "
            "or a directory that holds one."
        )
    if not file.is_file():
        raise CheckpointError(f"{file.parent} has no config.json to take a geometry from.")
    return ModelSource(None, name, "dummy", _read_config(file)[1])
