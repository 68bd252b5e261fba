"""Weights in the native CPU library's order, kept in the user's cache and mapped from there.

Putting 13.8 GB in order takes seconds, but twice the disk; so it is done in memory at the first
start, written to the cache by a thread beside the first requests, and mapped at every later start.
A cache is one safetensors file, `native/MODEL-KEY.safetensors`. The key says which files of the
checkpoint it was made of (names, sizes, times of change), for which order of weights, and in which
kinds. It is written under a temporary name, flushed to the disk and renamed, so that a file with
the final name is complete. Where the disk has no room, or cannot be written, nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

from ossia.checkpoint.demo import CACHE_VARIABLE, cache_directory
from ossia.checkpoint.reader import tensor_files
from ossia.checkpoint.resolve import ModelSource
from ossia.checkpoint.tensor_files import DTYPES, TensorEntry, read_header
from ossia.errors import CheckpointError

LAYOUT_VERSION = 1  # goes up when ossia_cpu.h changes the order of matrices
WORTH_KEEPING = 256 << 20  # bytes; smaller models are put in order faster than they are read
_DISK_RESERVE = 1 << 30  # bytes that are left free
_ALIGNMENT = 4096  # of every tensor in the file
_PIECE = 16 << 20  # bytes written at a time
_FLUSH_EVERY = 256 << 20  # bytes; keeps the system from collecting gigabytes that are not written
_STALE = 3600.0  # seconds after which an unfinished file is left over from a killed process
_POPULATE_READ = 22  # MADV_POPULATE_READ of Linux 5.14, which the mmap module does not name
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Progress = Callable[[str], None]


class NativeCache:
    """The cache of one model in one set of kinds."""

    def __init__(self, source: ModelSource, kinds: str, folder: Path | None = None) -> None:
        """`kinds` tells caches of the same checkpoint apart, such as "int8"."""
        assert source.path is not None, "random weights are not kept"
        self.folder = (folder or cache_directory()) / "native"
        place = str(source.path.resolve())
        safe = "".join(c if c.isalnum() or c in "-." else "-" for c in source.name)[-60:]
        self._family = f"{safe}-{_short_hash([place, kinds])}"
        identity = [
            [file.name, file.stat().st_size, file.stat().st_mtime_ns]
            for file in (*tensor_files(source.path, _layout(source)), source.path / "config.json")
        ]
        key = _short_hash([LAYOUT_VERSION, identity])
        self.file = self.folder / f"{self._family}-{key}.safetensors"

    def read(self, progress: Progress = lambda text: None) -> dict[str, Tensor] | None:
        """The tensors, mapped and read-only; None if they are not kept or the file is damaged."""
        if not self.file.is_file():
            return None
        try:
            entries = read_header(self.file)
            with self.file.open("rb") as stream:
                memory = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except (CheckpointError, OSError, ValueError):
            return None
        with contextlib.suppress(OSError):
            os.utime(self.file)  # for whoever wants to delete what was not used for long
        if psutil.virtual_memory().available > len(memory):
            _fault_in(memory, progress)
        return {name: _tensor(memory, entry) for name, entry in entries.items()}

    def write_beside(self, tensors: Mapping[str, Tensor], progress: Progress) -> None:
        """Begin to keep these tensors, in a thread that ends with the process.

        `progress` is told at once if there is no room.
        """
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size < WORTH_KEEPING:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_leftovers()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            progress(_cannot_keep(self.folder, error.strerror or str(error)))
            return
        if free < size + _DISK_RESERVE:
            progress(
                f"{size / 1e9:.1f} GB of weights are put in order at every start: {self.folder} "
                f"has only {free / 1e9:.1f} GB free; {CACHE_VARIABLE} can name another folder."
            )
            return
        threading.Thread(
            target=self._write_quietly, args=(dict(tensors),), name="keep-weights", daemon=True
        ).start()

    def write(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep these tensors.

        Raises:
            OSError: the folder cannot be written, or has no room.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{self.file.name}.{os.getpid()}.tmp"
        try:
            _write_file(unfinished, tensors)
            unfinished.replace(self.file)
        finally:
            unfinished.unlink(missing_ok=True)
        for other in self.folder.glob(f"{self._family}-*.safetensors"):
            if other != self.file:  # of an earlier state of the same checkpoint
                other.unlink(missing_ok=True)

    def _write_quietly(self, tensors: Mapping[str, Tensor]) -> None:
        # A disk that has filled up meanwhile costs the next start some seconds, no request.
        with contextlib.suppress(OSError):
            self.write(tensors)

    def _remove_leftovers(self) -> None:
        for file in self.folder.glob("*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - file.stat().st_mtime > _STALE:
                    file.unlink()


def _layout(source: ModelSource) -> Literal["hf", "original"]:
    return "original" if source.layout == "original" else "hf"


def _short_hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _cannot_keep(folder: Path, why: str) -> str:
    return (
        f"Weights are put in order at every start: {folder} cannot be written ({why}); "
        f"{CACHE_VARIABLE} can name another folder."
    )


def _fault_in(memory: mmap.mmap, progress: Progress) -> None:
    """Have all pages mapped now, read ahead in large pieces, rather than one by one later."""
    began = reported = time.monotonic()
    step = 256 << 20
    for start in range(0, len(memory), step):
        try:
            memory.madvise(_POPULATE_READ, start, min(step, len(memory) - start))
        except (AttributeError, OSError, ValueError):
            return  # an older system: pages come when they are touched
        now = time.monotonic()
        if now - reported >= 1.0 and now - began >= 2.0:
            reported = now
            progress(f"Reading weights: {100 * start // len(memory)} %")


def _tensor(memory: mmap.mmap, entry: TensorEntry) -> Tensor:
    dtype, size = DTYPES[entry.dtype], entry.end - entry.start
    if not size:
        return torch.empty(entry.shape, dtype=dtype)
    with warnings.catch_warnings():
        # Weights are never written to, so a read-only buffer is what is wanted.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        data = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=entry.start)
    return data.view(dtype).view(entry.shape)


def _write_file(file: Path, tensors: Mapping[str, Tensor]) -> None:
    header, end = {}, 0
    for name, tensor in tensors.items():
        end += -end % _ALIGNMENT
        header[name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with file.open("wb", buffering=0) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        at = unflushed = 0
        for tensor in tensors.values():
            stream.write(bytes(-at % _ALIGNMENT))
            at += -at % _ALIGNMENT
            flat = tensor.contiguous().view(-1).view(torch.uint8)
            data = memoryview(flat.numpy())  # type: ignore[arg-type]
            for start in range(0, len(data), _PIECE):
                piece = data[start : start + _PIECE]
                while piece:
                    piece = piece[stream.write(piece) or 0 :]
                unflushed += _PIECE
                if unflushed >= _FLUSH_EVERY:
                    unflushed = 0
                    os.fsync(stream.fileno())
            at += len(data)
        os.fsync(stream.fileno())
