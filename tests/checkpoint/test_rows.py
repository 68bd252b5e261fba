"""A row of the embedding costs the pages that it lies in, and no others."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.native_load import load_native
from ossia.checkpoint.resolve import resolve_model
from ossia.checkpoint.rows import expect_rows
from ossia.checkpoint.tensor_files import TensorFiles
from ossia.config import ModelConfig
from ossia.kernels.native.kernels import native_kernels
from ossia.kernels.native.library import status

ROWS, WIDTH = 8192, 4096  # bfloat16: 64 MiB


def resident_pages(file: Path) -> int:
    """Pages of a file that are in memory."""
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as memory:
        pages = -(-len(memory) // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        library = ctypes.CDLL(None, use_errno=True)
        failed = library.mincore(ctypes.c_void_p(start), ctypes.c_size_t(len(memory)), found)
        assert not failed, os.strerror(ctypes.get_errno())
        return sum(flag & 1 for flag in found)


@pytest.fixture
def evicted(tmp_path: Path) -> Path:
    """A file of one tensor that is on the disk only."""
    if not (hasattr(os, "posix_fadvise") and hasattr(ctypes.CDLL(None), "mincore")):
        pytest.skip("this system cannot be told to forget a file, or to say what it holds")
    file = tmp_path / "model.safetensors"
    save_file({"embedding": torch.zeros(ROWS, WIDTH, dtype=torch.bfloat16)}, file)
    descriptor = os.open(file, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    if resident_pages(file) > 1:
        pytest.skip("this file system keeps its files in memory")
    return file


def test_a_row_is_read_alone(evicted: Path) -> None:
    tensor = TensorFiles([evicted]).tensor("embedding")
    before = resident_pages(evicted)
    expect_rows(tensor)
    ids = torch.tensor([ROWS // 3, ROWS // 2])
    assert torch.equal(tensor.index_select(0, ids), torch.zeros(2, WIDTH, dtype=torch.bfloat16))
    row_pages = WIDTH * 2 // mmap.PAGESIZE + 2
    assert resident_pages(evicted) - before <= 2 * row_pages


def test_without_it_the_system_reads_on(evicted: Path) -> None:
    """What the test above would see if nothing were done."""
    tensor = TensorFiles([evicted]).tensor("embedding")
    before = resident_pages(evicted)
    tensor[ROWS // 3].sum()
    assert resident_pages(evicted) - before > 2 * (WIDTH * 2 // mmap.PAGESIZE + 2)


def advised(tensor: torch.Tensor) -> bool:
    """Whether the system was told that the middle of a tensor is read here and there."""
    address = tensor.data_ptr() + tensor.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first and ":" not in first:
            begin, end = (int(part, 16) for part in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return "rr" in rest.split()
    raise AssertionError("the tensor is not in memory")


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="the system says no flags")
@pytest.mark.parametrize("native", [False, True])
def test_loading_says_how_the_embedding_is_read(
    make_checkpoint: Callable[..., Path], tiny: ModelConfig, native: bool
) -> None:
    if native and not status().available:
        pytest.skip(status().sentence)
    source = resolve_model(str(make_checkpoint(config=replace(tiny, vocab_size=8192))))
    if native:
        embedding = load_native(source, native_kernels(), dtype=torch.bfloat16).embedding
    else:
        weights = load_weights(source, dtype=torch.bfloat16, device=torch.device("cpu"))
        embedding = weights.embedding
        assert not advised(weights.lm_head)
    assert advised(embedding)


def test_tensors_that_are_not_mapped_stay_as_they_are() -> None:
    for tensor in (torch.arange(5), torch.zeros(0, 7), torch.ones(3 << 20)):
        expected = tensor.clone()
        expect_rows(tensor)
        assert torch.equal(tensor, expected)
