"""A row of the embedding costs the pages that it lies in, and no others."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ossia.checkpoint.rows import expect_rows
from ossia.checkpoint.tensor_files import TensorFiles

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


def test_tensors_that_are_not_mapped_stay_as_they_are() -> None:
    for tensor in (torch.arange(5), torch.zeros(0, 7), torch.ones(3 << 20)):
        expected = tensor.clone()
        expect_rows(tensor)
        assert torch.equal(tensor, expected)
