"""Writing safetensors files tensor by tensor, in memory bounded by the tensor at hand.

The tensors are declared first, so that headers, offsets and shards are settled before any data
comes; the data may then come in any order.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from ossia.checkpoint.reader import INDEX, SINGLE
from ossia.checkpoint.tensor_files import DTYPES

_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 1 << 26  # bytes written at a time


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """A tensor to be written."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


class CheckpointWriter:
    """Writes declared tensors into one or several safetensors files of a directory.

    A context manager; leaving it flushes the files to the disk. Several files get an index.
    """

    def __init__(self, directory: Path, plan: Sequence[TensorPlan], shard_bytes: int) -> None:
        self._streams: list[BinaryIO] = []
        self._places: dict[str, tuple[BinaryIO, int, TensorPlan]] = {}  # stream, offset, plan
        shards = _shards(plan, shard_bytes)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = SINGLE
            if len(shards) > 1:
                file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            self._create(directory / file, shard)
            weight_map |= {tensor.name: file for tensor in shard}
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in plan)
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (directory / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _create(self, file: Path, shard: Sequence[TensorPlan]) -> None:
        # Wide types first, so that every tensor is aligned to its own size.
        shard = sorted(shard, key=lambda tensor: -tensor.dtype.itemsize)
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        offsets = {}
        for tensor in shard:
            offsets[tensor.name] = offset
            header[tensor.name] = {
                "dtype": _DTYPE_NAMES[tensor.dtype],
                "shape": tensor.shape,
                "data_offsets": [offset, offset + tensor.nbytes],
            }
            offset += tensor.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        stream = file.open("wb")
        self._streams.append(stream)
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
        for tensor in shard:
            self._places[tensor.name] = (stream, 8 + len(text) + offsets[tensor.name], tensor)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one declared tensor; it need not be contiguous."""
        stream, offset, plan = self._places[name]
        assert tensor.shape == plan.shape, (name, tensor.shape, plan.shape)
        stream.seek(offset)
        rows = max(1, _PIECE // max(1, plan.nbytes // max(1, plan.shape[0])))
        for start in range(0, plan.shape[0], rows):
            piece = tensor[start : start + rows].to(plan.dtype).contiguous()
            stream.write(piece.flatten().view(torch.uint8).numpy().data)

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for stream in self._streams:
            if kind is None:
                stream.flush()
                os.fsync(stream.fileno())
                stream.close()
            else:
                with contextlib.suppress(OSError):  # the first failure is the one to report
                    stream.close()


def _shards(plan: Sequence[TensorPlan], shard_bytes: int) -> list[list[TensorPlan]]:
    """Fill files in order; a tensor that is larger than a shard gets a file of its own."""
    shards: list[list[TensorPlan]] = []
    filled = 0
    for tensor in plan:
        if not shards or filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards
