"""Has the system read a checkpoint ahead of who puts its parts in order, and forget it behind them.

Parts are mapped, and threads that put them in order would otherwise wait for the disk at every
few pages, at places all over the part. A thread asks for whole parts instead, in the order of
their use and a gigabyte ahead. Where memory cannot hold the checkpoint beside its ordered copy,
pages that are done are given up, before the system drops others that are still to be used.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path

from ossia.checkpoint.layouts import stored_tensors
from ossia.checkpoint.parts import Part
from ossia.checkpoint.reader import tensor_files
from ossia.checkpoint.resolve import ModelSource
from ossia.checkpoint.tensor_files import TensorEntry, read_header

AHEAD = 1 << 30  # bytes
_PIECE = 32 << 20  # bytes asked for at a time


class PagesAhead:
    """For parts that are used in a known order. A context manager; leaving it ends the thread."""

    def __init__(self, source: ModelSource, parts: Sequence[Part], *, forget: bool) -> None:
        """`parts` in the order of use, all of the checkpoint of `source`.

        With `forget`, pages of parts that are done are given up.
        """
        self._forget = forget
        self._places = _places(source, parts)
        self._files: dict[Path, int] = {}
        self._room = threading.Condition()
        self._used = 0  # bytes of the parts that are done
        self._over = False
        self._thread = threading.Thread(target=self._run, name="pages-ahead", daemon=True)

    def __enter__(self) -> PagesAhead:
        if self._places and hasattr(os, "posix_fadvise"):
            for entries in self._places.values():
                for entry in entries:
                    if entry.file not in self._files:
                        self._files[entry.file] = os.open(entry.file, os.O_RDONLY)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._room:
            self._over = True
            self._room.notify()
        if self._thread.is_alive():
            self._thread.join()
        for descriptor in self._files.values():
            os.close(descriptor)

    def done(self, part: Part) -> None:
        """Nobody reads this part again, and its pages are mapped nowhere."""
        entries = self._places.get(part.name, ())
        with self._room:
            self._used += sum(entry.end - entry.start for entry in entries)
            self._room.notify()
        if self._forget and self._files:
            for entry in entries:
                os.posix_fadvise(
                    self._files[entry.file],
                    entry.start,
                    entry.end - entry.start,
                    os.POSIX_FADV_DONTNEED,
                )

    def _run(self) -> None:
        asked = 0
        for entries in self._places.values():
            for entry in entries:
                for start in range(entry.start, entry.end, _PIECE):
                    with self._room:
                        while not self._over and asked >= self._used + AHEAD:
                            self._room.wait()
                        if self._over:
                            return
                    size = min(_PIECE, entry.end - start)
                    os.posix_fadvise(self._files[entry.file], start, size, os.POSIX_FADV_WILLNEED)
                    asked += size


def _places(source: ModelSource, parts: Sequence[Part]) -> dict[str, list[TensorEntry]]:
    """Where the tensors of each part lie; nothing for random weights."""
    if source.path is None or source.layout == "dummy":
        return {}
    entries = {
        name: entry
        for file in tensor_files(source.path, source.layout)
        for name, entry in read_header(file).items()
    }
    return {
        part.name: [
            entries[stored.name]
            for stored in stored_tensors(source.layout, source.config, part)
            if stored.name in entries  # parts that are packed on the way have other names
        ]
        for part in parts
    }
