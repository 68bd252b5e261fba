"""Loading on a GPU gives the weights that loading on the CPU gives, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ossia.checkpoint.convert import convert
from ossia.checkpoint.device_dummy import device_dummy_part
from ossia.checkpoint.device_files import DeviceTensorFiles
from ossia.checkpoint.dummy import GEOMETRIES, dummy_part
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.parts import model_parts
from ossia.checkpoint.read_ahead import Ring
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.config import ModelConfig
from ossia.model.weights import ExpertWeights, ModelWeights
from ossia.mxfp4 import Mxfp4Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SMALL = ModelConfig(
    vocab_size=4000,
    hidden_size=512,
    num_layers=3,
    num_heads=8,
    num_kv_heads=2,
    num_experts=8,
    experts_per_token=2,
    intermediate_size=768,
)


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor of a structure by a name of its own."""
    if isinstance(value, Tensor):
        return {name: value}
    found: dict[str, Tensor] = {}
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            found |= tensors(item, f"{name}.{i}")
    elif hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            found |= tensors(getattr(value, field), f"{name}.{field}")
    return found


def load(directory: Path, device: torch.device, **options: Any) -> ModelWeights:
    options = {"dtype": torch.bfloat16} | options
    return load_weights(resolve_model(str(directory)), device=device, **options)


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("expert_format", ["mxfp4", "bf16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_weights_are_those_of_the_cpu(
    tmp_path: Path, layout: Any, expert_format: Any, dtype: torch.dtype
) -> None:
    source = ModelSource(None, "small", "dummy", replace(SMALL, expert_format=expert_format))
    convert(source, tmp_path / "model", layout=layout, shard_bytes=5_000_000)
    wanted = tensors(load(tmp_path / "model", CPU, dtype=dtype))
    found = tensors(load(tmp_path / "model", CUDA, dtype=dtype))
    assert found.keys() == wanted.keys()
    for name, tensor in found.items():
        assert tensor.device.type == "cuda", name
        assert tensor.dtype == wanted[name].dtype, name
        assert torch.equal(tensor.cpu(), wanted[name]), name


def test_a_ring_of_few_small_buffers_is_not_overwritten_too_early(tmp_path: Path) -> None:
    convert(ModelSource(None, "small", "dummy", SMALL), tmp_path / "model")
    paths = [tmp_path / "model" / "model.safetensors"]
    for _ in range(5):
        files = DeviceTensorFiles(paths, CUDA, Ring(buffer_bytes=70_000, buffers=3, threads=3))
        files.expect([sorted(files.entries)])
        mapped = load(tmp_path / "model", CPU)
        found = files.tensor("model.layers.2.mlp.experts.gate_up_proj_blocks")
        experts = mapped.layers[2].experts
        assert isinstance(experts, ExpertWeights)
        assert isinstance(experts.gate_up, Mxfp4Tensor)
        assert torch.equal(found.cpu(), experts.gate_up.blocks)
        files.close()


def test_placed_experts_take_the_place_of_those_that_were_read(tmp_path: Path) -> None:
    convert(ModelSource(None, "small", "dummy", SMALL), tmp_path / "model")
    wanted = load(tmp_path / "model", CPU)
    before = torch.cuda.memory_allocated()

    def place(layer: int, experts: ExpertWeights) -> Tensor:
        assert isinstance(experts.down, Mxfp4Tensor)
        return experts.down.blocks.flip(0)

    weights = load(tmp_path / "model", CUDA, place=place)
    for layer, known in zip(weights.layers, wanted.layers, strict=True):
        assert isinstance(layer.experts, Tensor)
        assert isinstance(known.experts, ExpertWeights)
        assert isinstance(known.experts.down, Mxfp4Tensor)
        assert torch.equal(layer.experts.cpu(), known.experts.down.blocks.flip(0))
    kept = sum(tensor.nbytes for tensor in tensors(weights).values())
    read = sum(
        layer.experts.gate_up.nbytes
        for layer in wanted.layers
        if isinstance(layer.experts, ExpertWeights)
        and isinstance(layer.experts.gate_up, Mxfp4Tensor)
    )
    # The allocator keeps some tens of kB for itself; the experts as they were read are gone.
    assert torch.cuda.memory_allocated() - before < kept + read // 2


def test_random_weights_are_made_on_the_device_and_repeat() -> None:
    source = ModelSource(None, "small", "dummy", SMALL)
    first, again, other = (
        tensors(load_weights(source, dtype=torch.bfloat16, device=CUDA, seed=seed))
        for seed in (1, 1, 2)
    )
    for name, tensor in first.items():
        assert tensor.device.type == "cuda"
        assert torch.equal(tensor, again[name])
    assert not torch.equal(first[".layers.1.qkv"], other[".layers.1.qkv"])


@pytest.mark.parametrize("part", [p for p in model_parts(SMALL) if p.layer in (None, 1)], ids=str)
def test_random_parts_have_the_distribution_of_the_cpu(part: Any) -> None:
    made, known = device_dummy_part(part, 0, CUDA).cpu().float(), dummy_part(part, 0).float()
    assert made.shape == known.shape
    if part.kind == "norm":
        assert torch.equal(made, known)
    if made.numel() < 10_000:
        return
    assert float(made.std()) == pytest.approx(float(known.std()), rel=0.02)
    assert float((made.mean() - known.mean()).abs()) < 0.02 * float(known.std())
    if part.kind in ("blocks", "scales"):
        assert torch.equal(made.unique(), known.unique())


def test_random_weights_of_the_20b_model_take_a_second_or_so() -> None:
    if torch.cuda.mem_get_info()[0] < 16 << 30:
        pytest.skip("needs 16 GiB of GPU memory")
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    source = ModelSource(None, "20b", "dummy", GEOMETRIES["gpt-oss-20b"])
    begin.record()
    weights = load_weights(source, dtype=torch.bfloat16, device=CUDA)
    end.record()
    end.synchronize()
    assert sum(t.nbytes for t in tensors(weights).values()) == pytest.approx(13.76e9, rel=0.01)
    assert begin.elapsed_time(end) < 5000  # milliseconds; well above what it should be
    del weights
    torch.cuda.empty_cache()
