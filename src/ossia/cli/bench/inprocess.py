"""Timing requests on an engine in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ossia.cli.progress import startup_progress
from ossia.config import EngineConfig
from ossia.engine.messages import Generate
from ossia.errors import ConfigError, OssiaError
from ossia.sampling import SamplingParams

if TYPE_CHECKING:
    from ossia.engine.core import EngineCore


@dataclass(frozen=True, slots=True)
class RunResult:
    """Requests that started together; durations in seconds from that moment."""

    seconds: float  # until the last one was finished, or the limit
    first_tokens: list[float]  # of each request that got one
    gaps: list[float]  # between two tokens of a request
    generated_tokens: int
    prompt_tokens: int
    finished: int  # requests
    model_seconds: float  # inside the network


def start(config: EngineConfig) -> EngineCore:
    """An engine, with progress on stderr.

    Raises:
        StartupError: it cannot run as configured.
    """
    with startup_progress() as progress:
        from ossia.engine.start import start_engine

        return start_engine(config, progress)


def fixed_length(request_id: str, prompt: list[int], tokens: int, seed: int) -> Generate:
    """A request that generates exactly `tokens`."""
    params = SamplingParams(max_tokens=tokens, ignore_eos=True, seed=seed)
    return Generate(request_id, prompt, params)


def check_fits(core: EngineCore, tokens: int) -> None:
    """Refuse lengths that the engine's context does not hold.

    Raises:
        ConfigError: prompt and answer together are too long.
    """
    if tokens > core.info.max_model_len:
        raise ConfigError(
            f"Prompt and answer have up to {tokens} tokens, but the engine's context is "
            f"{core.info.max_model_len}: shorten them or raise --max-model-len."
        )


def run_requests(
    core: EngineCore,
    requests: Sequence[Generate],
    *,
    max_seconds: float,
    on_finished: Callable[[], None] = lambda: None,
) -> RunResult:
    """Add all `requests` at once and step until they are finished, or for `max_seconds`.

    Raises:
        OssiaError: the engine reported that a request failed.
    """
    model_before = core.stats.model_seconds
    last: dict[str, float] = {}
    first_tokens: list[float] = []
    gaps: list[float] = []
    generated = finished = 0
    started = now = time.perf_counter()
    for request in requests:
        core.add(request)
    while core.has_work and now - started < max_seconds:
        output = core.step()
        now = time.perf_counter()
        for chunk in output.chunks:
            if chunk.error is not None:
                raise OssiaError(chunk.error)
            if chunk.token_ids:
                generated += len(chunk.token_ids)
                before = last.get(chunk.request_id)
                if before is None:
                    first_tokens.append(now - started)
                else:
                    gaps.append(now - before)
                last[chunk.request_id] = now
            if chunk.finish_reason is not None:
                finished += 1
                on_finished()
    core.abort([request.request_id for request in requests])
    return RunResult(
        seconds=now - started,
        first_tokens=first_tokens,
        gaps=gaps,
        generated_tokens=generated,
        prompt_tokens=sum(len(request.prompt) for request in requests),
        finished=finished,
        model_seconds=core.stats.model_seconds - model_before,
    )
