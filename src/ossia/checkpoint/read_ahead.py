"""Reads byte ranges of files ahead of their use: several threads fill a ring of buffers.

    with contextlib.closing(read_ahead(extents, staging, ring)) as arrivals:
        for which, data in arrivals:
            target.copy_(data, non_blocking=True)

One thread copies from the page cache at a fraction of the speed of the memory or of a GPU's link,
and waits alone for a disk; several come close to either. A read releases the interpreter's lock.
A buffer returns to the ring when the consumer asks for the next one, and is written again once the
copies out of it that were issued until then are done. Memory is bounded by the ring, however far
the consumer falls behind.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

from ossia.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of bytes in a file."""

    file: Path
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Ring:
    """How much is read ahead, and by how many threads."""

    # 16 MiB stay in a processor's cache between the read and the copy to a device: reading is then
    # 1.3 to 1.5 times as fast as with 64 MiB, and a disk still sees large requests.
    buffer_bytes: int = 16 << 20
    buffers: int = 16
    threads: int = 8


class Staging(Protocol):
    """Where buffers come from, and when copies out of them are done. Called by several threads."""

    def allocate(self, size: int) -> Tensor:
        """uint8 [size] in the memory of the CPU."""

    def mark(self) -> Callable[[], object]:
        """What waits until all copies that the calling thread has issued so far are done."""


class PlainStaging:
    """For targets on the CPU, to which copies are done when they return."""

    def allocate(self, size: int) -> Tensor:
        """Ordinary memory."""
        return torch.empty(size, dtype=torch.uint8)

    def mark(self) -> Callable[[], object]:
        """Nothing to wait for."""
        return _nothing


def _nothing() -> None:
    pass


class PinnedStaging:
    """For targets on a CUDA device, with copies on the calling thread's current stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def allocate(self, size: int) -> Tensor:
        """Page-locked memory, which the device reads by itself while the threads go on."""
        with torch.cuda.device(self._device):  # a new thread is on device 0
            return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def mark(self) -> Callable[[], object]:
        """An event after the copies; waiting for it releases the interpreter's lock."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        wait: Callable[[], object] = event.synchronize
        return wait


@dataclass(slots=True)
class _Buffer:
    data: Tensor | None = None  # allocated by the thread that first needs it
    wait: Callable[[], object] = _nothing  # until it may be written


@dataclass(frozen=True, slots=True)
class _Arrival:
    index: int
    buffer: _Buffer


def read_ahead(
    extents: Sequence[Extent], staging: Staging, ring: Ring
) -> Generator[tuple[int, Tensor]]:
    """The bytes of every extent, begun in the order given and delivered as they come.

    Args:
        extents: none larger than `ring.buffer_bytes`.
        staging: gives the buffers.
        ring: sizes and threads.

    Yields:
        The index of an extent and its bytes, uint8 [size] in a buffer that is only valid until the
        next one is asked for; asynchronous copies out of it may be under way longer.

    Raises:
        CheckpointError: a file cannot be read, or ends too soon.
    """
    readers = _Readers(extents, staging, ring)
    try:
        readers.start()
        for _ in extents:
            arrived = readers.arrivals.get()
            if isinstance(arrived, BaseException):
                raise arrived
            extent, data = extents[arrived.index], arrived.buffer.data
            assert data is not None
            yield arrived.index, data[: extent.end - extent.start]
            arrived.buffer.wait = staging.mark()
            readers.free.put(arrived.buffer)
    finally:
        readers.stop()


class _Readers:
    """The threads and what they share."""

    def __init__(self, extents: Sequence[Extent], staging: Staging, ring: Ring) -> None:
        assert all(e.end - e.start <= ring.buffer_bytes for e in extents)
        self._extents = extents
        self._staging = staging
        self._size = ring.buffer_bytes
        self._next = iter(range(len(extents)))
        self._lock = threading.Lock()
        self.free: SimpleQueue[_Buffer | None] = SimpleQueue()  # None ends a thread
        self.arrivals: SimpleQueue[_Arrival | BaseException] = SimpleQueue()
        for _ in range(min(ring.buffers, len(extents))):
            self.free.put(_Buffer())
        self._threads = [
            threading.Thread(target=self._run, name=f"weights-{i}", daemon=True)
            for i in range(min(ring.threads, ring.buffers, len(extents)))
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads, each after the read that it is in."""
        with self._lock:
            self._next = iter(())
        for _ in self._threads:
            self.free.put(None)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self) -> None:
        try:
            with contextlib.ExitStack() as files:
                opened: dict[Path, FileIO] = {}
                # The buffer first: an extent that is begun is also delivered.
                while (buffer := self.free.get()) is not None:
                    with self._lock:
                        index = next(self._next, None)
                    if index is None:
                        return
                    extent = self._extents[index]
                    if extent.file not in opened:
                        opened[extent.file] = files.enter_context(_open(extent.file))
                    self._fill(buffer, opened[extent.file], extent)
                    self.arrivals.put(_Arrival(index, buffer))
        except BaseException as error:  # for the consumer to raise
            self.arrivals.put(error)

    def _fill(self, buffer: _Buffer, file: FileIO, extent: Extent) -> None:
        if buffer.data is None:
            buffer.data = self._staging.allocate(self._size)
        buffer.wait()
        view = buffer.data.numpy().data[: extent.end - extent.start]
        try:
            file.seek(extent.start)
            while view:
                count = file.readinto(view)
                if not count:
                    raise CheckpointError(
                        f"{extent.file} is truncated: it ended at byte {file.tell()} while it was "
                        "read; download it again."
                    )
                view = view[count:]
        except OSError as error:
            raise CheckpointError(
                f"{extent.file} cannot be read: {error.strerror or error}."
            ) from error


def _open(path: Path) -> FileIO:
    """A handle of the thread's own: the position belongs to the handle, and so does the kernel's
    reading ahead."""
    try:
        file = FileIO(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return file
