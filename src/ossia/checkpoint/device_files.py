"""The tensors of safetensors files on a device, read ahead in the order in which they are wanted.

Files are read in pieces of at most one buffer, each of one or several tensors, that go straight
into the tensors' own memory on the device: nothing is mapped, and no tensor is on the CPU as a
whole. Copies and what is computed of them later run on one stream, the current one: converting
and repacking a layer takes the device a few milliseconds, in which the readers fill the ring.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ossia.checkpoint.read_ahead import Extent, PinnedStaging, PlainStaging, Ring, read_ahead
from ossia.checkpoint.tensor_files import DTYPES, TensorEntry, TensorFiles

_SMALL_GAP = 1 << 16  # bytes between two wanted tensors that are read too rather than skipped


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor within an extent."""

    name: str
    source: int  # bytes from the start of the extent
    target: int  # bytes from the start of the tensor
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class Read:
    """One read of a file, and what is in it."""

    extent: Extent
    pieces: tuple[Piece, ...]


def plan_reads(entries: Iterable[tuple[str, TensorEntry]], most: int) -> list[Read]:
    """Reads of at most `most` bytes that deliver the tensors in the order given.

    Neighbours in the order that lie one behind the other in a file share reads.
    """
    reads: list[Read] = []
    pieces: list[Piece] = []
    file, start, end = Path(), 0, 0

    def finish() -> None:
        if pieces:
            reads.append(Read(Extent(file, start, end), tuple(pieces)))
            pieces.clear()

    for name, entry in entries:
        position = entry.start
        while position < entry.end:
            near = file == entry.file and 0 <= position - end <= _SMALL_GAP
            if not (pieces and near and position - start < most):
                finish()
                file, start = entry.file, position
            end = min(entry.end, start + most)
            pieces.append(Piece(name, position - start, position - entry.start, end - position))
            position = end
    finish()
    return reads


class DeviceTensorFiles(TensorFiles):
    """Like `TensorFiles`, with tensors on a device, each of which can be had once."""

    def __init__(
        self, files: Iterable[Path], device: torch.device, ring: Ring | None = None
    ) -> None:
        super().__init__(files)
        self._device = device
        self._ring = ring or Ring()
        self._reads: list[Read] = []
        self._arrivals: Generator[tuple[int, Tensor]] | None = None
        self._targets: dict[str, Tensor] = {}  # begun
        self._missing: dict[str, int] = {}  # bytes of tensors that are begun
        self._complete: dict[str, Tensor] = {}

    def expect(self, groups: Iterable[Sequence[str]]) -> None:
        """Say what will be asked for: groups in order, such as layers, whose tensors are asked for
        in any order and read in that of the file."""
        ordered: list[tuple[str, TensorEntry]] = []
        for group in groups:
            named = [(name, self.entries[name]) for name in group]
            ordered += sorted(named, key=lambda item: (item[1].file, item[1].start))
        self._reads = plan_reads(ordered, self._ring.buffer_bytes)

    def tensor(self, name: str) -> Tensor:
        """An expected tensor as it stands in the file, in the device's memory.

        Waits until it is read; copies to the device may still be under way on the current stream.

        Raises:
            CheckpointError: a file cannot be read.
        """
        entry = self.entries[name]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype], device=self._device)
        if self._arrivals is None:
            on_gpu = self._device.type == "cuda"
            staging = PinnedStaging(self._device) if on_gpu else PlainStaging()
            extents = [read.extent for read in self._reads]
            self._arrivals = read_ahead(extents, staging, self._ring)
        while name not in self._complete:
            self._receive(*next(self._arrivals))
        return self._complete.pop(name)

    def release(self, name: str) -> None:
        """Nothing to do: the memory is the tensor's own."""

    def close(self) -> None:
        """End the reading and give the buffers back."""
        if self._arrivals is not None:
            self._arrivals.close()
        self._targets.clear()
        self._complete.clear()

    def _receive(self, index: int, data: Tensor) -> None:
        for piece in self._reads[index].pieces:
            if piece.name not in self._targets:
                entry = self.entries[piece.name]
                self._missing[piece.name] = entry.end - entry.start
                self._targets[piece.name] = torch.empty(
                    entry.shape, dtype=DTYPES[entry.dtype], device=self._device
                )
            target = self._targets[piece.name].view(-1).view(torch.uint8)
            target[piece.target : piece.target + piece.size].copy_(
                data[piece.source : piece.source + piece.size], non_blocking=True
            )
            self._missing[piece.name] -= piece.size
            if not self._missing[piece.name]:
                self._complete[piece.name] = self._targets.pop(piece.name)
