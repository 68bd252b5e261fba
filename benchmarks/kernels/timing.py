"""Times work on a GPU inside one CUDA graph, and says how far it is from its floor.

    us = graph_microseconds(lambda: [kernel(weights[i]) for i in range(24)], per=24)

A graph shrinks the gaps between launches to what a server sees. The work should go through more
bytes than the L2 holds (give every call its own weights), or it measures the cache.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from typing import Any

import torch

WARM_UP = 3  # replays


def graph_microseconds(work: Callable[[], object], *, per: int = 1, repeats: int = 20) -> float:
    """The median time of one replay of `work` as a CUDA graph, divided by `per`, in us.

    Args:
        work: launches kernels on the current stream; runs once eagerly first, to compile.
        per: how many calls of interest `work` makes.
        repeats: timed replays.
    """
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            kept = work()
        for _ in range(WARM_UP):
            graph.replay()
        times = []
        for _ in range(repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1e3)
    del kept
    return statistics.median(times) / per


def copy_bytes_per_second(size: int = 4 << 30) -> float:
    """Bytes read plus bytes written a second by a large copy on the device."""
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / graph_microseconds(lambda: target.copy_(source)) * 1e6


def report(kernel: str, tokens: int, config: Any, us: float, floor_us: float) -> None:
    """Print one result as a line of JSON."""
    line = {
        "kernel": kernel,
        "tokens": tokens,
        "config": config,
        "us": round(us, 2),
        "floor_us": round(floor_us, 2),
        "share": round(floor_us / us, 3),
    }
    print(json.dumps(line), flush=True)


def report_error(kernel: str, tokens: int, config: Any, error: BaseException) -> None:
    """Print that a configuration does not work."""
    text = f"{type(error).__name__}: {error}"
    line = {"kernel": kernel, "tokens": tokens, "config": config, "error": text[:300]}
    print(json.dumps(line), flush=True)
