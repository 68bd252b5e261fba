"""CUDA graphs of a step, one for each bucket of sizes: of batches that decode, or of tokens.

A step of few tokens is some hundred launches of a few microseconds each; a graph replays them
without the host. A bucket's first step runs launch by launch, which compiles or loads what it
needs, and is captured afterwards: no request waits for graphs that nobody asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def buckets(max_rows: int) -> tuple[int, ...]:
    """Batch sizes that have a graph: each up to 8, then steps of a sixteenth to an eighth."""
    sizes = [*range(1, 9)]
    while sizes[-1] < max_rows:
        step = max(2, 1 << (sizes[-1].bit_length() - 4))
        sizes.append(sizes[-1] + step)
    return (*(size for size in sizes if size < max_rows), max_rows)


class StepGraphs:
    """Runs `step(rows)` for any number of rows, in whole buckets, replayed where it can be."""

    def __init__(
        self, step: Callable[[int], Tensor], sizes: Sequence[int], *, capturable: bool = True
    ) -> None:
        """
        Args:
            step: works at fixed addresses, on one stream; its result is [rows, ...].
            sizes: of the buckets, ascending; the last one is the most rows of a step.
            capturable: whether `step` can be captured; else it is called each time.
        """
        self._step = step
        self._capturable = capturable
        self._sizes = sizes
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool: Any = None

    def bucket(self, rows: int) -> int:
        """The number of rows that run for this many."""
        return self._sizes[bisect_left(self._sizes, rows)]

    def missing(self) -> int | None:
        """A bucket without a graph, those of the most common batch sizes first; None: none."""
        if not self._capturable:
            return None
        left = [size for size in self._sizes if size not in self._graphs]
        return min(left, key=lambda size: (size.bit_count(), size), default=None)

    def run(self, rows: int) -> Tensor:
        """Enqueue a step; `rows` is a bucket's size. The result lives until the next step."""
        found = self._graphs.get(rows)
        if found is not None:
            graph, result = found
            graph.replay()
            return result
        result = self._step(rows)
        if self._capturable:
            self._capture(rows)
        return result

    def _capture(self, rows: int) -> None:
        graph = torch.cuda.CUDAGraph()
        # The mode lets other threads use CUDA meanwhile.
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            result = self._step(rows)
        finally:
            graph.capture_end()
        if self._pool is None:
            self._pool = graph.pool()
        self._graphs[rows] = graph, result
