"""Spreads the load generator over processes.

One process reads some 8,000 events a second, which a GPU exceeds at a hundred streams: what is
then measured is the client. Each process has its share of the streams, and all begin together.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from ossia.cli.bench.load import LoadResult, RequestResult, new_client, run_load
from ossia.cli.bench.workload import HttpRequest

STREAMS_A_PROCESS = 32
_START_UP = 2.0  # seconds in which every process has imported what it needs


def processes_for(streams: int) -> int:
    """How many processes read this many streams: as many as there are processors at most."""
    return max(1, min(-(-streams // STREAMS_A_PROCESS), os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class _Share:
    requests: list[RequestResult]
    begun: float  # seconds of the monotonic clock, which all processes of a machine share
    ended: float
    unfinished: int


async def run_load_in_processes(
    url: str,
    headers: Mapping[str, str],
    requests: Sequence[HttpRequest],
    *,
    concurrency: int,
    processes: int,
    max_seconds: float,
    on_done: Callable[[], None],
) -> LoadResult:
    """As `run_load`, in processes of their own. `on_done` is called when a process is done."""
    begin = time.monotonic() + _START_UP
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        shares = []
        for number in range(processes):
            streams = concurrency // processes + (number < concurrency % processes)
            own = list(requests[number::processes])
            work = (url, dict(headers), own, streams, max_seconds, begin)
            shares.append(loop.run_in_executor(pool, _run_share, *work))
        done = []
        for share in shares:
            done.append(await share)
            for _ in done[-1].requests:
                on_done()
    return LoadResult(
        [result for share in done for result in share.requests],
        max(share.ended for share in done) - min(share.begun for share in done),
        sum(share.unfinished for share in done),
    )


def _run_share(
    url: str,
    headers: dict[str, str],
    requests: list[HttpRequest],
    streams: int,
    max_seconds: float,
    begin: float,
) -> _Share:
    async def run() -> _Share:
        async with new_client(url, headers) as http:
            await asyncio.sleep(max(0.0, begin - time.monotonic()))
            begun = time.monotonic()
            load = await run_load(
                http,
                requests,
                concurrency=streams,
                max_seconds=max_seconds,
                on_done=lambda: None,
            )
            return _Share(load.requests, begun, begun + load.seconds, load.unfinished)

    return asyncio.run(run())
