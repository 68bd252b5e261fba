"""A faulty checkpoint is refused with one sentence that names the file and the tensor, before any
data is read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ossia.checkpoint.layouts import Layout, stored_tensors
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.parts import model_parts
from ossia.checkpoint.reader import INDEX
from ossia.checkpoint.resolve import resolve_model
from ossia.config import ModelConfig
from ossia.errors import CheckpointError

CPU = torch.device("cpu")
Make = Callable[..., Path]


def edit(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    content = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(content)
    save_file(content, file, metadata={"format": "pt"})


def fault(directory: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_weights(resolve_model(str(directory)), dtype=torch.bfloat16, device=CPU)
    message = caught.value.message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_a_missing_shard(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shard_bytes=50_000)
    shard = next(directory.glob("model-00002-of-*.safetensors"))
    shard.unlink()
    message = fault(directory)
    assert f"{directory / INDEX} names {shard.name}, which is missing" in message


def test_a_truncated_shard(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shard_bytes=50_000)
    shard = next(directory.glob("model-00002-of-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert f"{shard} is truncated: tensor " in fault(directory)


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_every_missing_tensor_is_named(
    make_checkpoint: Make, tiny: ModelConfig, layout: Layout
) -> None:
    directory = make_checkpoint(layout=layout)
    file = directory / "model.safetensors"
    source = resolve_model(str(directory))
    whole = {name: tensor.clone() for name, tensor in load_file(file).items()}
    for part in model_parts(tiny):
        for stored in stored_tensors(layout, tiny, part):
            left = {name: tensor for name, tensor in whole.items() if name != stored.name}
            save_file(left, file)
            with pytest.raises(CheckpointError, match=re.escape(f"has no tensor {stored.name}: ")):
                load_weights(source, dtype=torch.bfloat16, device=CPU)


def test_a_wrong_shape(make_checkpoint: Make) -> None:
    file = make_checkpoint() / "model.safetensors"
    name = "model.layers.1.self_attn.k_proj.weight"
    edit(file, lambda content: content.update({name: torch.zeros(32, 64).bfloat16()}))
    assert fault(file.parent) == (
        f"{file}: tensor {name} has shape [32, 64], but config.json makes it [64, 64]; "
        "they must agree."
    )


def test_a_wrong_dtype(make_checkpoint: Make) -> None:
    file = make_checkpoint() / "model.safetensors"
    name = "model.layers.0.mlp.experts.down_proj_scales"
    edit(file, lambda content: content.update({name: content[name].to(torch.int8)}))
    assert f"{file}: tensor {name} has dtype I8, but U8 is needed" in fault(file.parent)
    name = "model.norm.weight"
    edit(file, lambda content: content.update({name: content[name].to(torch.int32)}))
    scales = "model.layers.0.mlp.experts.down_proj_scales"
    edit(file, lambda content: content.update({scales: content[scales].to(torch.uint8)}))
    assert f"{name} has dtype I32, but BF16 or F16 or F32 is needed" in fault(file.parent)


def test_a_vocabulary_that_differs_from_the_configuration(make_checkpoint: Make) -> None:
    file = make_checkpoint() / "model.safetensors"
    edit(file, lambda content: content.update({"lm_head.weight": torch.zeros(300, 64).bfloat16()}))
    assert "tensor lm_head.weight has 300 rows, but config.json has a vocab_size of 320" in fault(
        file.parent
    )


def test_more_layers_than_the_configuration_has(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    config |= {"num_hidden_layers": 1, "layer_types": config["layer_types"][:1]}
    (directory / "config.json").write_text(json.dumps(config))
    assert "model.layers.1." in fault(directory)
    assert "has only 1 layers" in fault(directory)


def test_packed_experts_that_the_configuration_does_not_mention(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    config = json.loads((directory / "config.json").read_text())
    quantization = config.pop("quantization_config")
    (directory / "config.json").write_text(json.dumps(config))
    assert "config.json lacks quantization_config" in fault(directory)
    bf16 = make_checkpoint("bf16", expert_dtype="bfloat16")
    config = json.loads((bf16 / "config.json").read_text())
    (bf16 / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    assert "remove quantization_config from config.json" in fault(bf16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("{}", "is damaged"),
        ('{"weight_map": ["a"]}', "is damaged"),
        ('{"weight_map": {"a": "../model.safetensors"}}', "which is not a file beside it"),
        ('{"weight_map": {"a": 3}}', "which is not a file beside it"),
    ],
)
def test_a_damaged_index(make_checkpoint: Make, content: str, message: str) -> None:
    directory = make_checkpoint()
    (directory / INDEX).write_text(content)
    assert f"{INDEX}" in fault(directory)
    assert message in fault(directory)


def test_a_directory_without_weights(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    (directory / "model.safetensors").rename(directory / "model.gguf")
    assert fault(directory).startswith(
        f"{directory} holds no safetensors file (model.gguf is of another format)"
    )
