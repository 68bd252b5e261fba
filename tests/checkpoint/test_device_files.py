"""Tensors that are read ahead are those of the mapped files; here with the CPU as the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ossia.checkpoint.device_files import DeviceTensorFiles, plan_reads
from ossia.checkpoint.load import load_weights
from ossia.checkpoint.read_ahead import Ring
from ossia.checkpoint.resolve import resolve_model
from ossia.checkpoint.tensor_files import TensorEntry, TensorFiles
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.model.weights import ExpertWeights, ModelWeights
from ossia.mxfp4 import Mxfp4Tensor

CPU = torch.device("cpu")
Make = Callable[..., Path]
SMALL = Ring(buffer_bytes=5000, buffers=3, threads=2)


@pytest.fixture
def read_ahead_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(paths: Iterable[Path]) -> DeviceTensorFiles:
        return DeviceTensorFiles(paths, CPU, SMALL)

    monkeypatch.setattr("ossia.checkpoint.reader.TensorFiles", files)


def load(directory: Path, **options: Any) -> ModelWeights:
    options = {"dtype": torch.bfloat16, "device": CPU} | options
    return load_weights(resolve_model(str(directory)), **options)


def same(left: object, right: object) -> bool:
    """Whether two structures of tensors are equal, bit by bit."""
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, tuple):
        assert isinstance(right, tuple)
        return all(map(same, left, right))
    if isinstance(left, ModelConfig):
        return left == right
    names = getattr(left, "__dataclass_fields__")  # noqa: B009
    return all(same(getattr(left, name), getattr(right, name)) for name in names)


@pytest.mark.parametrize("layout", ["hf", "original"])
@pytest.mark.parametrize("expert_format", ["mxfp4", "bf16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_are_those_of_the_mapped_files(
    make_checkpoint: Make,
    tiny: ModelConfig,
    request: pytest.FixtureRequest,
    layout: str,
    expert_format: Any,
    dtype: torch.dtype,
) -> None:
    config = replace(tiny, expert_format=expert_format)
    directory = make_checkpoint(config=config, layout=layout, shard_bytes=50_000)
    mapped = load(directory, dtype=dtype)
    request.getfixturevalue("read_ahead_on_the_cpu")
    assert same(load(directory, dtype=dtype), mapped)
    if expert_format == "bf16":
        packed = load(directory, quantization="mxfp4").layers[0].experts
        assert isinstance(packed, ExpertWeights)
        assert isinstance(packed.gate_up, Mxfp4Tensor)


@pytest.mark.usefixtures("read_ahead_on_the_cpu")
def test_experts_are_placed_layer_by_layer(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    placed: list[tuple[int, torch.Size]] = []

    def place(layer: int, experts: ExpertWeights) -> tuple[str, int]:
        placed.append((layer, experts.down_bias.shape))
        return "placed", layer

    weights = load(directory, place=place)
    assert placed == [(0, torch.Size([4, 64])), (1, torch.Size([4, 64]))]
    assert [layer.experts for layer in weights.layers] == [("placed", 0), ("placed", 1)]


@pytest.mark.usefixtures("read_ahead_on_the_cpu")
def test_a_file_that_is_cut_while_it_is_loaded_is_refused(make_checkpoint: Make) -> None:
    directory = make_checkpoint()
    file = directory / "model.safetensors"

    def place(layer: int, experts: ExpertWeights) -> ExpertWeights:
        file.write_bytes(file.read_bytes()[:-4000])
        return experts

    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated: it ended at byte"):
        load(directory, place=place)


def test_empty_and_unaligned_tensors_arrive(tmp_path: Path) -> None:
    tensors = {
        "empty": torch.empty(0, 3),
        "codes": torch.arange(7, dtype=torch.uint8),
        "wide": torch.randn(3000, 2),
        "scalar": torch.tensor(2.0),
    }
    save_file(tensors, tmp_path / "m.safetensors")
    files = DeviceTensorFiles([tmp_path / "m.safetensors"], CPU, Ring(4096, 2, 2))
    files.expect([["wide", "codes"], ["empty", "scalar"]])
    for name in ("scalar", "wide", "empty", "codes"):
        assert torch.equal(files.tensor(name), tensors[name])
    files.close()


def test_neighbours_share_reads_and_a_jump_begins_a_new_one() -> None:
    file, other = Path("a"), Path("b")

    def entry(file: Path, start: int, end: int) -> TensorEntry:
        return TensorEntry(file, "U8", (end - start,), start, end)

    far = 10_000_000
    entries = [
        ("first", entry(file, 100, 150)),
        ("second", entry(file, 158, 400)),
        ("far", entry(file, far, far + 10)),
        ("other", entry(other, far + 10, far + 20)),
        ("none", entry(other, far + 20, far + 20)),
    ]
    extents = [(r.extent.file, r.extent.start, r.extent.end) for r in plan_reads(entries, 200)]
    assert extents == [
        (file, 100, 300),
        (file, 300, 400),
        (file, far, far + 10),
        (other, far + 10, far + 20),
    ]


@settings(max_examples=100, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 9)), min_size=1, max_size=12),
    order=st.randoms(use_true_random=False),
    most=st.integers(1, 64),
)
def test_reads_hold_every_byte_once_and_are_never_too_long(
    sizes: list[tuple[int, int]], order: Any, most: int
) -> None:
    entries, position = [], 0
    for number, (size, gap) in enumerate(sizes):
        entries.append(
            (str(number), TensorEntry(Path("a"), "U8", (size,), position, position + size))
        )
        position += size + gap
    order.shuffle(entries)
    found: dict[str, list[int]] = {name: [] for name, _ in entries}
    for read in plan_reads(entries, most):
        assert 0 < read.extent.end - read.extent.start <= most
        for piece in read.pieces:
            start = dict(entries)[piece.name].start
            assert read.extent.start + piece.source == start + piece.target
            assert piece.source + piece.size <= read.extent.end - read.extent.start
            found[piece.name] += range(piece.target, piece.target + piece.size)
    for name, entry in entries:
        assert found[name] == list(range(entry.end - entry.start))


def test_mapped_files_need_no_order(tmp_path: Path) -> None:
    save_file({"a": torch.ones(3)}, tmp_path / "m.safetensors")
    files = TensorFiles([tmp_path / "m.safetensors"])
    files.expect([["a"]])
    files.close()
    assert torch.equal(files.tensor("a"), torch.ones(3))
