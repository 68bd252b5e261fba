from __future__ import annotations

import gc
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ossia.checkpoint.dummy import dummy_part
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.parts import model_parts
from ossia.checkpoint.reader import INDEX
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.model.weights import ModelWeights
from ossia.mxfp4 import Mxfp4Tensor, quantise, unpack

CPU = torch.device("cpu")
Make = Callable[..., Path]


def load(directory: Path, **options: Any) -> ModelWeights:
    options = {"dtype": torch.bfloat16, "device": CPU} | options
    return load_weights(resolve_model(str(directory)), **options)


def tensors(weights: ModelWeights) -> dict[str, Tensor]:
    """Every tensor by a name of its own."""
    found: dict[str, Tensor] = {}

    def visit(name: str, value: object) -> None:
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                visit(f"{name}.{i}", item)
        elif hasattr(value, "__dataclass_fields__") and not isinstance(value, ModelConfig):
            for field in value.__dataclass_fields__:
                visit(f"{name}.{field}", getattr(value, field))

    visit("", weights)
    return found


def assert_same(left: ModelWeights, right: ModelWeights) -> None:
    a, b = tensors(left), tensors(right)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def edit(file: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    content = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(content)
    save_file(content, file, metadata={"format": "pt"})


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("expert_format", ["mxfp4", "bf16"])
@pytest.mark.parametrize("shard_bytes", [50_000, 10**9])
def test_a_written_checkpoint_gives_the_weights_it_was_made_from(
    make_checkpoint: Make, tiny: ModelConfig, layout: str, expert_format: Any, shard_bytes: int
) -> None:
    config = replace(tiny, expert_format=expert_format)
    directory = make_checkpoint(config=config, layout=layout, shard_bytes=shard_bytes)
    assert (len(list(directory.glob("*.safetensors"))) > 1) == (shard_bytes == 50_000)
    source = ModelSource(None, "tiny", "dummy", config)
    weights = load(directory)
    assert_same(weights, load_weights(source, dtype=torch.bfloat16, device=CPU))
    assert weights.config.expert_format == expert_format
    gate_up = weights.layers[1].experts.gate_up
    assert isinstance(gate_up, Mxfp4Tensor) == (expert_format == "mxfp4")
    assert tuple(gate_up.shape) == (4, 2 * 96, 64)


def test_weights_written_by_transformers_are_found_under_their_names(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=320,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        intermediate_size=96,
    )
    torch.manual_seed(0)
    model = GptOssForCausalLM(config).bfloat16()
    state = {n: p.data.normal_() for n, p in model.named_parameters()}
    model.save_pretrained(tmp_path / "model", max_shard_size="100KB")
    assert (tmp_path / "model" / INDEX).is_file()
    weights = load(tmp_path / "model")
    for i, layer in enumerate(weights.layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        for kind, fused in (("weight", layer.qkv), ("bias", layer.qkv_bias)):
            parts = [state[f"{attention}.{letter}_proj.{kind}"] for letter in "qkv"]
            assert torch.equal(fused, torch.cat(parts))
        assert torch.equal(layer.sinks, state[f"{attention}.sinks"])
        assert torch.equal(layer.out, state[f"{attention}.o_proj.weight"])
        assert torch.equal(layer.router_bias, state[f"{mlp}.router.bias"])
        assert isinstance(layer.experts.gate_up, Tensor)
        assert isinstance(layer.experts.down, Tensor)
        gate_up, down = state[f"{mlp}.experts.gate_up_proj"], state[f"{mlp}.experts.down_proj"]
        assert torch.equal(layer.experts.gate_up, gate_up.transpose(1, 2))
        assert torch.equal(layer.experts.down, down.transpose(1, 2))
    assert torch.equal(weights.embedding, state["model.embed_tokens.weight"])
    assert torch.equal(weights.lm_head, state["lm_head.weight"])
    assert torch.equal(weights.norm, state["model.norm.weight"])


def test_the_original_layout_has_the_names_of_the_reference_code(make_checkpoint: Make) -> None:
    directory = make_checkpoint(layout="original")
    with safe_open(directory / "model.safetensors", framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    block = {
        "attn.norm.scale": (64,),
        "attn.qkv.weight": (256, 64),
        "attn.qkv.bias": (256,),
        "attn.sinks": (4,),
        "attn.out.weight": (64, 128),
        "attn.out.bias": (64,),
        "mlp.norm.scale": (64,),
        "mlp.gate.weight": (4, 64),
        "mlp.gate.bias": (4,),
        "mlp.mlp1_weight.blocks": (4, 192, 2, 16),
        "mlp.mlp1_weight.scales": (4, 192, 2),
        "mlp.mlp1_bias": (4, 192),
        "mlp.mlp2_weight.blocks": (4, 64, 3, 16),
        "mlp.mlp2_weight.scales": (4, 64, 3),
        "mlp.mlp2_bias": (4, 64),
    }
    assert shapes == {
        "embedding.weight": (320, 64),
        "norm.scale": (64,),
        "unembedding.weight": (320, 64),
        **{f"block.{i}.{name}": shape for i in range(2) for name, shape in block.items()},
    }


def test_all_but_packed_experts_take_the_wanted_dtype(make_checkpoint: Make) -> None:
    weights = load(make_checkpoint(), dtype=torch.float32)
    for name, tensor in tensors(weights).items():
        packed = name.endswith((".blocks", ".scales"))
        assert tensor.dtype == (torch.uint8 if packed else torch.float32), name


def test_quantization_packs_bfloat16_experts_while_loading(
    make_checkpoint: Make, tiny: ModelConfig
) -> None:
    config = replace(tiny, expert_format="bf16")
    for layout in ("hf", "original"):
        directory = make_checkpoint(layout, config, layout=layout)
        plain = load(directory).layers[1].experts.down
        weights = load(directory, quantization="mxfp4")
        packed = weights.layers[1].experts.down
        assert weights.config.expert_format == "mxfp4"
        assert isinstance(packed, Mxfp4Tensor)
        assert isinstance(plain, Tensor)
        assert torch.equal(unpack(packed, torch.float32), unpack(quantise(plain), torch.float32))


def test_quantization_leaves_an_mxfp4_checkpoint_as_it_is(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    assert_same(load(directory), load(directory, quantization="mxfp4"))


def test_experts_that_cannot_be_packed_are_named(make_checkpoint: Make, tiny: ModelConfig) -> None:
    directory = make_checkpoint(config=replace(tiny, expert_format="bf16"))
    name = "model.layers.1.mlp.experts.down_proj"
    edit(directory / "model.safetensors", lambda content: content[name][2, 3].fill_(float("nan")))
    with pytest.raises(
        CheckpointError, match=re.escape(f"model.safetensors: tensor {name} cannot")
    ):
        load(directory, quantization="mxfp4")


def test_loading_copies_nothing_that_is_stored_as_wanted(tmp_path: Path, tiny: ModelConfig) -> None:
    from ossia.checkpoint.convert import convert

    config = replace(tiny, vocab_size=100_000, intermediate_size=2048, num_experts=32)
    source = ModelSource(None, "tiny", "dummy", config)
    report = convert(source, tmp_path / "model", layout="hf")
    assert report.total_bytes > 30e6
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    weights = load(tmp_path / "model")
    assert process.memory_info().rss - before < 4e6
    assert weights.embedding.shape == (100_000, 64)


def test_progress_is_told_on_slow_loads(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossia.checkpoint.load._REPORT_EVERY", 0.0)
    told: list[str] = []
    load(make_checkpoint(), progress=told.append)
    assert told[-1] == "Loading weights: 100 %"


def test_dummy_weights_are_those_of_the_seed(tiny: ModelConfig) -> None:
    source = ModelSource(None, "tiny", "dummy", tiny)
    weights = load_weights(source, dtype=torch.bfloat16, device=CPU, seed=7)
    part = next(p for p in model_parts(tiny) if p.name == "layers.1.out")
    assert torch.equal(weights.layers[1].out, dummy_part(part, 7))
