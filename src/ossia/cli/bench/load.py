"""The load generator: keeps a number of requests in flight and times what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import httpx

from ossia.cli.bench.workload import HttpRequest
from ossia.cli.wire import error_message, parse_event


@dataclass(slots=True)
class RequestResult:
    """One request as the client saw it; times in seconds of the monotonic clock."""

    started: float
    first: float | None = None  # first chunk with output
    last: float | None = None  # last chunk with output
    gaps: list[float] = field(default_factory=list)  # between chunks with output
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class LoadResult:
    """All requests of one level of concurrency."""

    requests: list[RequestResult]
    seconds: float  # from the first request sent to the last one finished
    unfinished: int  # cut off by the time limit, or never sent


def new_client(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """A client without limits of its own on streams and on the time of an answer."""
    return httpx.AsyncClient(
        base_url=url,
        headers=headers,
        timeout=httpx.Timeout(None, connect=30.0),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    )


async def run_load(
    http: httpx.AsyncClient,
    requests: Sequence[HttpRequest],
    *,
    concurrency: int,
    max_seconds: float,
    on_done: Callable[[], None],
) -> LoadResult:
    """Send `requests` in order, `concurrency` at a time, for at most `max_seconds`."""
    results: list[RequestResult] = []
    queue = iter(requests)
    started = time.monotonic()

    async def worker(queue: Iterator[HttpRequest]) -> None:
        for request in queue:
            results.append(await send(http, request))
            on_done()

    try:
        async with asyncio.timeout(max_seconds), asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(worker(queue))
    except TimeoutError:
        pass
    seconds = time.monotonic() - started
    return LoadResult(results, seconds, len(requests) - len(results))


async def send(http: httpx.AsyncClient, request: HttpRequest) -> RequestResult:
    """Send one streamed request and time its chunks; failures are recorded, not raised."""
    result = RequestResult(time.monotonic())
    try:
        async with http.stream("POST", request.path, json=request.body) as response:
            if response.is_error:
                result.error = _refusal(response.status_code, await response.aread())
                return result
            rest = b""
            async for piece in response.aiter_raw():
                now = time.monotonic()
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    _read(result, line, now)
    except (httpx.HTTPError, ValueError) as error:
        result.error = f"{type(error).__name__}: {error}"
    if result.error is None and result.completion_tokens == 0:
        result.error = "the stream ended without usage"
    return result


def _read(result: RequestResult, line: bytes, now: float) -> None:
    chunk = parse_event(line)
    if chunk is None:
        return
    if chunk.error:
        result.error = error_message(chunk.error)
    if chunk.usage:
        details = chunk.usage.prompt_tokens_details
        result.prompt_tokens = chunk.usage.prompt_tokens
        result.cached_tokens = (details.cached_tokens if details else None) or 0
        result.completion_tokens = chunk.usage.completion_tokens
    if any(choice.has_output for choice in chunk.choices or ()):
        if result.last is None:
            result.first = now
        else:
            result.gaps.append(now - result.last)
        result.last = now


def _refusal(status: int, body: bytes) -> str:
    try:
        chunk = parse_event(b"data:" + body.replace(b"\n", b" "))
    except ValueError:
        chunk = None
    return f"status {status}" + (f": {error_message(chunk.error)}" if chunk and chunk.error else "")
