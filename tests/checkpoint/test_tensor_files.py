from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from ossia.checkpoint.tensor_files import TensorFiles, read_header
from ossia.errors import CheckpointError


def write_raw(file: Path, header: object, data: bytes) -> Path:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return file


def test_tensors_written_by_safetensors_are_read_back_equal(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(7).bfloat16(),
        "c": torch.randint(0, 256, (2, 3), dtype=torch.uint8),
        "d": torch.randn(2, 2).half(),
        "e": torch.arange(4, dtype=torch.int32),
        "f": torch.randn(3, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "m.safetensors", metadata={"format": "pt"})
    files = TensorFiles([tmp_path / "m.safetensors"])
    assert files.entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert files.tensor(name).dtype == tensor.dtype
        assert torch.equal(files.tensor(name), tensor)


def test_tensors_are_views_of_the_mapped_file_and_survive_a_release(tmp_path: Path) -> None:
    values = torch.randn(64, 1024)
    save_file({"a": values}, tmp_path / "m.safetensors")
    files = TensorFiles([tmp_path / "m.safetensors"])
    first = files.tensor("a")
    assert first.data_ptr() == files.tensor("a").data_ptr()
    files.release("a")
    assert torch.equal(first, values)
    del files
    assert torch.equal(first, values)


def test_a_tensor_that_is_not_aligned_is_read_all_the_same(tmp_path: Path) -> None:
    values = torch.randn(4)
    data = b"x" + values.numpy().tobytes()
    header = {
        "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "a": {"dtype": "F32", "shape": [4], "data_offsets": [1, 17]},
    }
    files = TensorFiles([write_raw(tmp_path / "m.safetensors", header, data)])
    assert torch.equal(files.tensor("a"), values)


def test_a_truncated_file_is_refused_with_the_file_and_tensor(tmp_path: Path) -> None:
    file = tmp_path / "m.safetensors"
    save_file({"first": torch.zeros(8), "second": torch.zeros(8)}, file)
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match=r"m\.safetensors is truncated: tensor second ends"):
        read_header(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a safetensors file"),
        (b"1234", "is not a safetensors file"),
        (b"GGUF" + b"\xff" * 60, "is not a safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        ((1000).to_bytes(8, "little") + b"{}", "its header alone takes 1008 bytes"),
        ((4).to_bytes(8, "little") + b"{{{{", "The header of .* is damaged"),
        ((2).to_bytes(8, "little") + b"\xff\xfe", "The header of .* is damaged"),
        ((2).to_bytes(8, "little") + b"[]", "The header of .* is damaged"),
    ],
)
def test_what_is_not_safetensors_is_named_so(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_header(file)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": None, "data_offsets": [0, 8]},
        "a string",
    ],
)
def test_a_damaged_entry_is_refused_with_the_tensor(tmp_path: Path, entry: object) -> None:
    file = write_raw(tmp_path / "m.safetensors", {"weight": entry}, bytes(8))
    with pytest.raises(CheckpointError, match=r"damaged.*tensor weight"):
        read_header(file)


def test_the_same_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"weight": torch.zeros(2)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"Both .*a\.safetensors and .*b\.safetensors hold"):
        TensorFiles([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone\.safetensors cannot be read: No such file"):
        read_header(tmp_path / "gone.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_any_damage_is_a_checkpoint_error_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(save({"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(3).bfloat16()}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "m.safetensors"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        files = TensorFiles([file])
    except CheckpointError:
        return
    for name, entry in files.entries.items():
        if entry.dtype in ("F32", "BF16"):
            assert files.tensor(name).shape == entry.shape
