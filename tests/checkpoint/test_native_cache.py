"""Ordered weights are kept once and mapped after, as long as the checkpoint is the same."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from dataclasses import replace

import pytest
import torch

from ossia.checkpoint import native_cache, native_load
from ossia.checkpoint.convert import convert
from ossia.checkpoint.dummy import GEOMETRIES
from ossia.checkpoint.native_cache import NativeCache
from ossia.checkpoint.native_load import load_native, native_weight_bytes
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.kernels.native.kernels import native_kernels
from ossia.kernels.native.library import status
from ossia.kernels.native.matrices import Kind

SMALL = replace(
    GEOMETRIES["gpt-oss-20b"],
    vocab_size=500,
    hidden_size=96,
    num_layers=2,
    num_heads=8,
    num_kv_heads=2,
    head_dim=16,
    num_experts=4,
    intermediate_size=64,
    layer_types=(),
)
TENSORS = {"a": torch.arange(10.0), "b.values": torch.ones(3, 5000, dtype=torch.uint8)}
needs_library = pytest.mark.skipif(not status().available, reason=status().sentence)
quiet = print


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "model"
    convert(ModelSource(None, "small", "dummy", SMALL), folder)
    return resolve_model(str(folder))


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OSSIA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(native_cache, "WORTH_KEEPING", 0)
    return tmp_path / "cache" / "native"


@pytest.fixture
def at_once(monkeypatch):
    """Caches are complete when `load_native` returns."""
    monkeypatch.setattr(
        NativeCache, "write_beside", lambda self, tensors, progress: self.write(tensors)
    )


def test_what_was_written_is_read_as_aligned_views(source, cache_folder):
    cache = NativeCache(source, "int8")
    assert cache.read() is None
    cache.write(TENSORS)
    found = cache.read()
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor)
        assert found[name].data_ptr() % 64 == 0


def test_another_state_of_the_checkpoint_has_another_cache_which_replaces_the_first(
    source, cache_folder
):
    before = NativeCache(source, "int8")
    before.write(TENSORS)
    NativeCache(source, "bf16").write(TENSORS)
    file = next(source.path.glob("*.safetensors"))
    os.utime(file, (1, 1))
    after = NativeCache(source, "int8")
    assert after.read() is None
    after.write(TENSORS)
    assert not before.file.exists()
    assert after.read() is not None
    assert NativeCache(source, "bf16").file.name not in {f.name for f in cache_folder.iterdir()}
    assert len(list(cache_folder.iterdir())) == 2  # that of bf16, of the earlier state, stays


def test_a_damaged_file_is_not_read(source, cache_folder):
    cache = NativeCache(source, "int8")
    cache.write(TENSORS)
    size = cache.file.stat().st_size
    os.truncate(cache.file, size - 1)
    assert cache.read() is None


def test_a_write_that_fails_leaves_nothing(source, cache_folder, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native_cache.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        NativeCache(source, "int8").write(TENSORS)
    assert list(cache_folder.iterdir()) == []


def test_a_disk_without_room_is_left_alone_and_that_is_said(source, cache_folder, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    said = []
    NativeCache(source, "int8").write_beside(TENSORS, said.append)
    assert "put in order at every start" in said[0]
    assert "OSSIA_CACHE_DIR" in said[0]


@needs_library
@pytest.mark.parametrize("dense", ["int8", "bf16"])
def test_the_second_start_maps_what_the_first_put_in_order(
    source, cache_folder, at_once, monkeypatch, dense
):
    kernels = native_kernels(dense, threads=1)
    first = load_native(source, kernels, dtype=torch.float32)
    monkeypatch.setattr(native_load, "_put_in_order", None)
    second = load_native(source, kernels, dtype=torch.float32)
    assert torch.equal(first.lm_head.values, second.lm_head.values)
    for (attention, mixture), (mapped, others) in zip(first.layers, second.layers, strict=True):
        assert torch.equal(attention.qkv.values, mapped.qkv.values)
        assert torch.equal(attention.sinks, mapped.sinks)
        assert torch.equal(mixture.gate_up.values, others.gate_up.values)
        assert torch.equal(mixture.down.scales, others.down.scales)
        assert torch.equal(mixture.router, others.router)


@needs_library
def test_random_weights_are_never_kept(cache_folder, at_once):
    source = ModelSource(None, "small", "dummy", SMALL)
    load_native(source, native_kernels(threads=1), dtype=torch.bfloat16)
    assert not cache_folder.exists()


def test_the_size_of_the_weights_in_memory_is_known_before():
    config = GEOMETRIES["gpt-oss-20b"]
    assert 12.5e9 < native_weight_bytes(config, Kind.INT8, 2) < 12.8e9
    assert native_weight_bytes(config, Kind.BF16, 2) > 13.7e9
