"""Threads fill a ring of buffers; whatever their timing, every byte arrives once and no buffer is
written while a copy out of it is under way."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ossia.checkpoint.read_ahead import Extent, PlainStaging, Ring, read_ahead
from ossia.errors import CheckpointError

SIZE = 10_000


class SlowDevice:
    """A staging whose copies happen only when somebody waits for them, or at the end: as late as an
    asynchronous device may do them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: list[tuple[Tensor, Tensor]] = []
        self.allocated = 0

    def allocate(self, size: int) -> Tensor:
        with self._lock:
            self.allocated += 1
        return torch.full((size,), 255, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with self._lock:
            self._pending.append((target, source))

    def mark(self) -> Callable[[], object]:
        with self._lock:
            issued = list(self._pending)
        return lambda: self._finish(issued)

    def finish(self) -> None:
        self._finish(self._pending)

    def _finish(self, copies: list[tuple[Tensor, Tensor]]) -> None:
        with self._lock:
            for copy in copies:
                if any(copy is pending for pending in self._pending):
                    copy[0].copy_(copy[1])
            self._pending = [p for p in self._pending if not any(p is c for c in copies)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(random.Random(0).randbytes(SIZE))
    return path


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    ranges=st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 700)), max_size=40),
    buffers=st.integers(1, 5),
    threads=st.integers(1, 5),
)
def test_every_extent_arrives_whole_however_late_the_copies_are(
    file: Path, ranges: list[tuple[int, int]], buffers: int, threads: int
) -> None:
    extents = [Extent(file, start, min(SIZE, start + size)) for start, size in ranges]
    device = SlowDevice()
    targets = [torch.zeros(e.end - e.start, dtype=torch.uint8) for e in extents]
    seen = []
    for index, data in read_ahead(extents, device, Ring(700, buffers, threads)):
        seen.append(index)
        device.copy(targets[index], data)
    device.finish()
    assert sorted(seen) == list(range(len(extents)))
    assert device.allocated <= buffers
    content = file.read_bytes()
    for extent, target in zip(extents, targets, strict=True):
        assert bytes(target.numpy()) == content[extent.start : extent.end]


def test_several_files_are_read(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 10)
    extents = [Extent(tmp_path / name, 2, 5) for name in "abcba"]
    found = {
        i: bytes(data.numpy()) for i, data in read_ahead(extents, PlainStaging(), Ring(8, 2, 2))
    }
    assert [found[i] for i in range(5)] == [b"aaa", b"bbb", b"ccc", b"bbb", b"aaa"]


def no_thread_is_left() -> bool:
    return not any(thread.name.startswith("weights-") for thread in threading.enumerate())


def test_threads_end_when_the_consumer_stops_early(file: Path) -> None:
    extents = [Extent(file, start, start + 100) for start in range(0, SIZE, 100)]
    with contextlib.closing(read_ahead(extents, PlainStaging(), Ring(100, 3, 3))) as arrivals:
        next(arrivals)
        time.sleep(0.02)  # all buffers are full, and the threads wait for one
        assert not no_thread_is_left()
    assert no_thread_is_left()


def test_a_file_that_becomes_shorter_while_it_is_read_is_refused(file: Path) -> None:
    extents = [Extent(file, 0, 100), Extent(file, SIZE - 50, SIZE + 50)]
    with pytest.raises(CheckpointError, match=r"data is truncated: it ended at byte 10000 while"):
        list(read_ahead(extents, PlainStaging(), Ring(100, 2, 2)))
    assert no_thread_is_left()


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone cannot be read: No such file or directory"):
        list(read_ahead([Extent(tmp_path / "gone", 0, 1)], PlainStaging(), Ring(8, 2, 2)))


def test_a_fault_of_the_staging_reaches_the_consumer(file: Path) -> None:
    class Full(PlainStaging):
        def allocate(self, size: int) -> Tensor:
            raise RuntimeError("out of page-locked memory")

    with pytest.raises(RuntimeError, match="page-locked"):
        list(read_ahead([Extent(file, 0, 1)], Full(), Ring(8, 2, 2)))
    assert no_thread_is_left()
