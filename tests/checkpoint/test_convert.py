from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ossia.checkpoint.convert import ConvertReport, convert
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.config import ModelConfig, RopeConfig
from ossia.errors import CheckpointError, ConfigError
from ossia.mxfp4 import Mxfp4Tensor, unpack

Make = Callable[..., Path]


def run(source: Path, target: Path, **options: Any) -> ConvertReport:
    return convert(resolve_model(str(source)), target, **options)


def stored(directory: Path) -> dict[str, Tensor]:
    """All tensors as the safetensors library reads them."""
    found: dict[str, Tensor] = {}
    for file in directory.glob("*.safetensors"):
        found |= load_file(file)
    return found


def assert_identical(left: Path, right: Path) -> None:
    a, b = stored(left), stored(right)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype, name
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


@pytest.mark.parametrize("expert_format", ["mxfp4", "bf16"])
@pytest.mark.parametrize(("there", "back"), [("original", "hf"), ("hf", "original")])
def test_there_and_back_again_gives_identical_bytes(
    make_checkpoint: Make,
    tmp_path: Path,
    tiny: ModelConfig,
    expert_format: Any,
    there: Any,
    back: Any,
) -> None:
    config = replace(tiny, expert_format=expert_format)
    first = make_checkpoint("first", config, layout=back)
    run(first, tmp_path / "there", layout=there, shard_bytes=60_000)
    report = run(tmp_path / "there", tmp_path / "back", layout=back)
    assert_identical(first, tmp_path / "back")
    assert (first / "config.json").read_bytes() == (tmp_path / "back/config.json").read_bytes()
    assert report.tensors == len(stored(first))
    assert report.total_bytes == sum(t.nbytes for t in stored(first).values())
    assert report.errors == {}


def test_float32_and_float16_tensors_keep_their_bytes(
    make_checkpoint: Make, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    first = make_checkpoint("first")
    wide = {
        name: tensor if tensor.dtype == torch.uint8 else tensor.to(dtype)
        for (name, tensor), dtype in zip(
            stored(first).items(), [torch.float32, torch.float16] * 50, strict=False
        )
        if "_proj." not in name
    }
    wide |= {name: t.float() for name, t in stored(first).items() if "_proj." in name}
    save_file(wide, first / "model.safetensors", metadata={"format": "pt"})
    run(first, tmp_path / "there", layout="original")
    run(tmp_path / "there", tmp_path / "back")
    assert_identical(first, tmp_path / "back")


def test_quantising_reports_the_error_that_float64_finds(
    make_checkpoint: Make, tmp_path: Path, tiny: ModelConfig
) -> None:
    first = make_checkpoint("first", replace(tiny, expert_format="bf16"))
    report = run(first, tmp_path / "packed", quantise="mxfp4")
    assert report.expert_format == "mxfp4"
    truth, packed = stored(first), stored(tmp_path / "packed")
    for kind in ("gate_up", "down"):
        squares = values = largest = 0.0
        for layer in range(2):
            name = f"model.layers.{layer}.mlp.experts.{kind}_proj"
            exact = truth[name].double().transpose(1, 2)
            blocks = Mxfp4Tensor(packed[f"{name}_blocks"], packed[f"{name}_scales"])
            off = unpack(blocks, torch.float64) - exact
            squares += float(off.square().sum())
            values += float(exact.square().sum())
            largest = max(largest, float(off.abs().max()))
        error = report.errors[kind]
        assert error.relative_rms == pytest.approx((squares / values) ** 0.5, rel=1e-12)
        assert error.max_absolute == largest
        # Normal values lose about 11 % in four bits; the worst is a value near the largest of its
        # block, off by at most a sixth of it and rounded once more where it was cut down to 6.
        assert 0.08 < error.relative_rms < 0.125
        assert error.max_relative < 0.26


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_unpacking_and_packing_again_gives_equal_values(
    make_checkpoint: Make, tmp_path: Path, layout: Any
) -> None:
    first = make_checkpoint("first")
    run(first, tmp_path / "plain", expert_dtype="bfloat16", layout=layout)
    plain = resolve_model(str(tmp_path / "plain"))
    assert plain.config.expert_format == "bf16"
    report = run(tmp_path / "plain", tmp_path / "packed", quantise="mxfp4")
    assert {error.relative_rms for error in report.errors.values()} == {0.0}
    old, new = stored(first), stored(tmp_path / "packed")
    for name in old:
        if name.endswith("_blocks"):
            scales = name.replace("_blocks", "_scales")
            assert torch.equal(
                unpack(Mxfp4Tensor(old[name], old[scales]), torch.float32),
                unpack(Mxfp4Tensor(new[name], new[scales]), torch.float32),
            )


def test_transformers_loads_what_is_written_and_agrees_with_the_unpacked_model(
    make_checkpoint: Make, tmp_path: Path, tiny: ModelConfig
) -> None:
    from transformers import AutoModelForCausalLM, Mxfp4Config

    # transformers insists on a padding token that is in the vocabulary.
    packed = make_checkpoint("packed", replace(tiny, pad_token_id=1), shard_bytes=60_000)
    run(packed, tmp_path / "plain", expert_dtype="bfloat16")
    ids = torch.tensor([[1, 2, 3, 4, 5, 300, 17]])
    logits = []
    for directory in (packed, tmp_path / "plain"):
        quantization = Mxfp4Config(dequantize=True) if directory == packed else None
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            quantization_config=quantization,
            dtype=torch.float32,
            output_loading_info=True,
        )
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]
        weights = load_weights(
            resolve_model(str(directory)), dtype=torch.float32, device=torch.device("cpu")
        )
        down = weights.layers[1].experts.down
        values = unpack(down, torch.float32) if isinstance(down, Mxfp4Tensor) else down
        assert torch.equal(model.model.layers[1].mlp.experts.down_proj, values.transpose(1, 2))
        with torch.no_grad():
            logits.append(model(ids).logits)
    assert torch.equal(*logits)
    assert logits[0].std() > 0.3


def test_the_files_beside_the_weights(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    assert sorted(p.name for p in directory.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    generation = json.loads((directory / "generation_config.json").read_text())
    assert generation["eos_token_id"] == [199999, 200002, 200012]
    config = json.loads((directory / "config.json").read_text())
    assert config["quantization_config"]["quant_method"] == "mxfp4"


def test_the_index_says_where_every_tensor_is(make_checkpoint: Make) -> None:
    directory = make_checkpoint(shard_bytes=50_000)
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    for name, file in index["weight_map"].items():
        assert name in load_file(directory / file)
    assert index["weight_map"].keys() == stored(directory).keys()
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in stored(directory).values())
    sizes = [sum(t.nbytes for t in load_file(f).values()) for f in directory.glob("*.safetensors")]
    assert all(size <= 50_000 for size in sizes)


def test_every_tensor_is_aligned_to_its_own_size(make_checkpoint: Make, tiny: ModelConfig) -> None:
    from ossia.checkpoint.tensor_files import DTYPES, read_header

    odd = replace(tiny, num_experts=3, hidden_size=32, intermediate_size=32, vocab_size=321)
    for entry in read_header(make_checkpoint(config=odd) / "model.safetensors").values():
        assert entry.start % DTYPES[entry.dtype].itemsize == 0


def test_a_target_that_is_not_empty_is_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    first = make_checkpoint("first")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").touch()
    for target in (tmp_path / "taken", first / "config.json"):
        with pytest.raises(CheckpointError, match=r"is not empty: name a directory"):
            run(first, target)
    assert [p.name for p in (tmp_path / "taken").iterdir()] == ["precious"]


def test_an_empty_target_is_filled(make_checkpoint: Make, tmp_path: Path) -> None:
    first = make_checkpoint("first")
    (tmp_path / "empty").mkdir()
    run(first, tmp_path / "empty")
    assert_identical(first, tmp_path / "empty")


def test_a_failure_leaves_nothing_behind(
    make_checkpoint: Make, tmp_path: Path, tiny: ModelConfig
) -> None:
    from safetensors.torch import save_file

    first = make_checkpoint("first", replace(tiny, expert_format="bf16"))
    tensors = {name: tensor.clone() for name, tensor in stored(first).items()}
    tensors["model.layers.1.mlp.experts.down_proj"][0, 0, 0] = float("inf")
    save_file(tensors, first / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"tensor model.layers.1.mlp.experts.down_proj"):
        run(first, tmp_path / "second", quantise="mxfp4")
    assert [p.name for p in tmp_path.iterdir()] == ["first"]


def test_a_disk_that_is_too_small_is_noticed_first(
    make_checkpoint: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_checkpoint("first")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 8, 1000))
    with pytest.raises(CheckpointError, match=r"second needs 0\.0 GB, but .* only 0\.0 GB free"):
        run(first, tmp_path / "second")
    assert not (tmp_path / "second").exists()


def test_a_target_that_cannot_be_written_is_named(make_checkpoint: Make, tmp_path: Path) -> None:
    first = make_checkpoint("first")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"file/below cannot be written: (Not a dir|File ex)"):
        run(first, tmp_path / "file" / "below")


def test_options_that_exclude_each_other_are_refused(make_checkpoint: Make, tmp_path: Path) -> None:
    first = make_checkpoint("first")
    with pytest.raises(ConfigError):
        run(first, tmp_path / "second", quantise="mxfp4", expert_dtype="bfloat16")
    with pytest.raises(ConfigError):
        run(first, tmp_path / "second", shard_bytes=0)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ({"layer_types": ("full_attention", "full_attention")}, "layer_types"),
        ({"rope": RopeConfig(truncate=True)}, "rope"),
        ({"swiglu_alpha": 1.5}, "swiglu_alpha"),
    ],
)
def test_a_model_that_the_original_layout_cannot_describe_is_refused(
    make_checkpoint: Make, tiny: ModelConfig, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(CheckpointError, match=f"no field for this model's {field}"):
        make_checkpoint(config=replace(tiny, **change), layout="original")


def test_random_weights_are_written_as_they_would_be_served(
    tiny: ModelConfig, tmp_path: Path
) -> None:
    source = ModelSource(None, "tiny", "dummy", tiny)
    convert(source, tmp_path / "model", seed=3)
    options: Any = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    written = load_weights(resolve_model(str(tmp_path / "model")), **options)
    served = load_weights(source, seed=3, **options)
    assert torch.equal(written.embedding, served.embedding)
    assert torch.equal(written.layers[1].qkv, served.layers[1].qkv)


def test_the_written_directory_can_be_read_by_others(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    other = directory.parent / "plain"
    other.mkdir()
    assert directory.stat().st_mode == other.stat().st_mode


def test_progress_says_how_much_is_written(
    make_checkpoint: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossia.checkpoint.convert._REPORT_EVERY", 0.0)
    told: list[str] = []
    make_checkpoint(progress=told.append)
    assert told[-1] == "Writing 0.0 of 0.0 GB"
