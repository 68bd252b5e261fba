"""Figures about a set of durations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Summary:
    """Of durations in seconds; all NaN if there were none."""

    count: int
    mean: float
    median: float
    p90: float
    p99: float
    maximum: float


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value that `share` (0 to 1) of the ascending `ordered` values do not exceed.

    Between two values it is interpolated linearly, as numpy does by default. NaN if empty.
    """
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def summarize(values: Sequence[float]) -> Summary:
    """Count, mean and percentiles of `values`."""
    ordered = sorted(values)
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered) if ordered else math.nan,
        median=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        maximum=ordered[-1] if ordered else math.nan,
    )


def milliseconds(seconds: float) -> str:
    """Such as `12.3 ms`, or `12.3 s` from ten seconds on; a dash for NaN."""
    if math.isnan(seconds):
        return "-"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:.1f} ms"
