"""Reading safetensors files: headers first and checked, then tensors as views of mapped memory.

The format (https://huggingface.co/docs/safetensors): eight bytes of little-endian header length,
a JSON header {name: {dtype, shape, data_offsets}}, then the data. Reading it here rather than
through a library makes every fault one sentence with the file and the tensor, lets pages be given
back after a copy, and costs no memory until a tensor is touched.
"""

from __future__ import annotations

import json
import math
import mmap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ossia.errors import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_MAX_HEADER = 100_000_000  # bytes; the limit of the format


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies."""

    file: Path
    dtype: str  # as the header spells it, for example BF16
    shape: tuple[int, ...]
    start: int  # bytes from the start of the file
    end: int


def read_header(file: Path) -> dict[str, TensorEntry]:
    """The tensors of one safetensors file, checked against the size of the file.

    Raises:
        CheckpointError: the file cannot be read, is not safetensors, or is cut short.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if prefix == b"version ":
                raise CheckpointError(
                    f"{file} is a Git LFS pointer, not the weights: run `git lfs pull` there."
                )
            if len(prefix) < 8 or length > _MAX_HEADER:
                raise CheckpointError(f"{file} is not a safetensors file: download it again.")
            if 8 + length > size:
                raise CheckpointError(
                    f"{file} is truncated: its header alone takes {8 + length} bytes, "
                    f"the file has {size}; download it again."
                )
            header = json.loads(stream.read(length))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise CheckpointError(
            f"The header of {file} is damaged ({error}): download the file again."
        ) from error
    if not isinstance(header, dict):
        raise CheckpointError(f"The header of {file} is damaged: download the file again.")
    header.pop("__metadata__", None)
    entries = {name: _entry(file, name, raw, 8 + length) for name, raw in header.items()}
    for name, entry in entries.items():
        if entry.end > size:
            raise CheckpointError(
                f"{file} is truncated: tensor {name} ends at byte {entry.end}, "
                f"the file has {size}; download it again."
            )
    return entries


def _entry(file: Path, name: str, raw: Any, data_start: int) -> TensorEntry:
    try:
        dtype, shape = str(raw["dtype"]), tuple(int(n) for n in raw["shape"])
        start, end = (int(n) for n in raw["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The header of {file} is damaged at tensor {name}: download the file again."
        ) from error
    known = DTYPES.get(dtype)
    size_fits = known is None or end - start == math.prod(shape) * known.itemsize
    if start < 0 or end < start or min(shape, default=0) < 0 or not size_fits:
        raise CheckpointError(
            f"The header of {file} is damaged: tensor {name}, {dtype} {list(shape)}, "
            f"cannot take {end - start} bytes; download the file again."
        )
    return TensorEntry(file, dtype, shape, data_start + start, data_start + end)


class TensorFiles:
    """The tensors of several safetensors files by name, mapped into memory on first use.

    The tensors returned are read-only views of the mapped files, which stay mapped for as long as
    a view lives.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.files = tuple(files)
        self.entries: dict[str, TensorEntry] = {}
        for file in self.files:
            for name, entry in read_header(file).items():
                if name in self.entries:
                    raise CheckpointError(
                        f"Both {self.entries[name].file} and {file} hold tensor {name}: "
                        "remove the files that do not belong to the checkpoint."
                    )
                self.entries[name] = entry
        self._maps: dict[Path, mmap.mmap] = {}

    def tensor(self, name: str) -> Tensor:
        """A tensor as it stands in the file, without copying it."""
        entry = self.entries[name]
        dtype = DTYPES[entry.dtype]
        if entry.start == entry.end:
            return torch.empty(entry.shape, dtype=dtype)
        with warnings.catch_warnings():
            # Weights are never written to, so a read-only buffer is what is wanted.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            data = torch.frombuffer(
                self._map(entry.file),
                dtype=torch.uint8,
                count=entry.end - entry.start,
                offset=entry.start,
            )
        if entry.start % dtype.itemsize:  # written by a tool that does not align its tensors
            data = data.clone()
        return data.view(dtype).view(entry.shape)

    def expect(self, groups: Iterable[Sequence[str]]) -> None:
        """Nothing to prepare: mapped tensors are had in any order. See `DeviceTensorFiles`."""

    def close(self) -> None:
        """Nothing to end: the files stay mapped for as long as a view lives."""

    def release(self, name: str) -> None:
        """Give back the memory of a tensor that was copied; it can still be read again."""
        entry = self.entries[name]
        if entry.file in self._maps and hasattr(mmap, "MADV_DONTNEED"):
            start = -(-entry.start // mmap.PAGESIZE) * mmap.PAGESIZE
            length = entry.end // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                self._maps[entry.file].madvise(mmap.MADV_DONTNEED, start, length)

    def _map(self, file: Path) -> mmap.mmap:
        if file not in self._maps:
            try:
                with file.open("rb") as stream:
                    self._maps[file] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except OSError as error:
                raise CheckpointError(
                    f"{file} cannot be mapped into memory: {error.strerror or error}."
                ) from error
        return self._maps[file]
