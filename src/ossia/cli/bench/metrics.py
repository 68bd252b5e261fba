"""The server's own counters, read from /metrics before and after a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass

import httpx

_STEP_SECONDS = "ossia_engine_step_seconds_total"
_MODEL_SECONDS = "ossia_engine_model_seconds_total"


@dataclass(frozen=True, slots=True)
class EngineSeconds:
    """Seconds that the engine has spent since its start."""

    step: float  # in whole steps: scheduling, the network, sampling
    model: float  # of which inside the network


async def read_engine_seconds(http: httpx.AsyncClient) -> EngineSeconds | None:
    """Both counters; None if the server does not have them."""
    try:
        response = await http.get("/metrics")
    except httpx.HTTPError:
        return None
    return parse_engine_seconds(response.text) if response.is_success else None


def parse_engine_seconds(text: str) -> EngineSeconds | None:
    """Both counters from Prometheus text."""
    from prometheus_client.parser import text_string_to_metric_families

    found: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in (_STEP_SECONDS, _MODEL_SECONDS):
                    found[sample.name] = found.get(sample.name, 0.0) + sample.value
    except ValueError:
        return None
    if len(found) < 2:
        return None
    return EngineSeconds(step=found[_STEP_SECONDS], model=found[_MODEL_SECONDS])


@dataclass(frozen=True, slots=True)
class TimeShares:
    """Where the wall-clock time of a busy server went; the three add up to 1.

    `model` is inside the network, `step` in the rest of engine steps (scheduling, sampling,
    building batches), `outside` between steps (messages, HTTP, waiting for clients).
    """

    model: float
    step: float
    outside: float

    @property
    def not_model(self) -> float:
        """Share of time outside the model: 1 - model seconds / busy wall-clock seconds."""
        return 1.0 - self.model


def time_shares(
    before: EngineSeconds | None, after: EngineSeconds | None, seconds: float
) -> TimeShares:
    """Shares over `seconds` of wall clock during which requests were always in flight; NaN if
    the counters are missing."""
    if before is None or after is None or seconds <= 0:
        return TimeShares(math.nan, math.nan, math.nan)
    model = (after.model - before.model) / seconds
    step = (after.step - before.step) / seconds
    return TimeShares(model=model, step=step - model, outside=1.0 - step)
