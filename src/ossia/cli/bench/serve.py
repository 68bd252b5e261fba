"""`ossia bench serve`: load on a running server, seen from its clients."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ossia.cli.bench.report import check_writable, print_table, write_json
from ossia.cli.bench.statistics import Summary, milliseconds, summarize
from ossia.cli.bench.workload import HttpRequest, demo_requests, random_requests
from ossia.cli.serve import API_KEY_VARIABLE
from ossia.cli.values import (
    choice,
    counts,
    length_range,
    not_empty,
    real_number,
    server_url,
    whole_number,
)
from ossia.errors import StartupError

if TYPE_CHECKING:
    import httpx
    from rich.progress import Progress

    from ossia.cli.bench.load import LoadResult
    from ossia.cli.bench.metrics import TimeShares

HELP = "measure a running server under load"
_MIN_REQUESTS = 16
_REQUESTS_PER_STREAM = 4
_WARM_UP_TOKENS = 8
_SETTINGS = ("prompts", "input_len", "output_len", "seed")  # what the figures depend on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia bench serve`."""
    parser.add_argument(
        "--url",
        type=server_url,
        default="http://127.0.0.1:8000",
        metavar="URL",
        help="the server (default: http://127.0.0.1:8000)",
    )
    parser.add_argument(
        "--api-key",
        type=not_empty,
        metavar="KEY",
        help=f"key of the server (default: {API_KEY_VARIABLE})",
    )
    parser.add_argument(
        "--model",
        type=not_empty,
        metavar="NAME",
        help="model to ask for (default: the first one the server lists)",
    )
    parser.add_argument(
        "--concurrency",
        type=counts,
        default=(1, 8, 32),
        metavar="N[,N...]",
        help="streams at the same time, one row for each (default: 1,8,32)",
    )
    parser.add_argument(
        "--num-requests",
        type=whole_number(1, 100_000),
        metavar="N",
        help=f"requests for each row (default: {_REQUESTS_PER_STREAM} a stream, "
        f"at least {_MIN_REQUESTS})",
    )
    parser.add_argument(
        "--prompts",
        type=choice("random", "demo"),
        default="random",
        metavar="random|demo",
        help="random tokens of fixed lengths, or chats with the demo model (default: random)",
    )
    parser.add_argument(
        "--input-len",
        type=length_range,
        default=(128, 128),
        metavar="N[-N]",
        help="tokens of a random prompt (default: 128)",
    )
    parser.add_argument(
        "--output-len",
        type=length_range,
        default=(64, 64),
        metavar="N[-N]",
        help="tokens of an answer; the most, for demo prompts (default: 64)",
    )
    parser.add_argument(
        "--max-seconds",
        type=real_number(0, low_open=True),
        default=300.0,
        metavar="S",
        help="time limit of each row (default: 300)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0), default=0, metavar="N", help="of prompts (default: 0)"
    )


@dataclass(frozen=True, slots=True)
class Row:
    """What one level of concurrency showed; durations in seconds."""

    concurrency: int
    requests: int
    errors: int
    unfinished: int
    seconds: float
    time_to_first_token: Summary
    inter_token_latency: Summary
    output_tokens: int
    output_tokens_per_second: float
    prompt_tokens: int
    cached_prompt_tokens: int
    share_outside_model: float  # 1 - model seconds / wall-clock seconds
    share_in_steps_outside_model: float  # part of it that engine steps account for
    first_error: str | None


def run(args: argparse.Namespace) -> int:
    """Measure every level; the exit code is 1 if a request failed or was cut off.

    Raises:
        StartupError: no server there, or the JSON file cannot be written.
    """
    check_writable(args.json)
    model, rows = asyncio.run(_measure(args))
    _print(model, args, rows)
    settings = {
        name: getattr(args, name) for name in ("prompts", "input_len", "output_len", "seed")
    }
    write_json(
        args.json, "serve", {"model": model, **settings, "rows": [asdict(row) for row in rows]}
    )
    return 1 if any(row.errors or row.unfinished for row in rows) else 0


async def _measure(args: argparse.Namespace) -> tuple[str, list[Row]]:
    from rich.console import Console
    from rich.progress import Progress

    from ossia.cli.bench.load import new_client

    key = args.api_key or os.environ.get(API_KEY_VARIABLE)
    headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {key}"} if key else {})}
    async with new_client(args.url, headers) as http:
        model = args.model or await _first_model(http, args.url)
        rows = []
        with Progress(console=Console(stderr=True), transient=True) as progress:
            for number, concurrency in enumerate(args.concurrency):
                count = args.num_requests or max(_MIN_REQUESTS, _REQUESTS_PER_STREAM * concurrency)
                seed = args.seed + number * 1_000_003  # other prompts in each row
                requests = _requests(args, model, count, seed, args.output_len)
                if number == 0:
                    short = (1, min(_WARM_UP_TOKENS, args.output_len[1]))
                    await _warm_up(http, _requests(args, model, 1, seed + 1, short))
                rows.append(await _level(http, headers, requests, concurrency, args, progress))
    return model, rows


async def _level(
    http: httpx.AsyncClient,
    headers: Mapping[str, str],
    requests: Sequence[HttpRequest],
    concurrency: int,
    args: argparse.Namespace,
    progress: Progress,
) -> Row:
    from ossia.cli.bench.load import run_load
    from ossia.cli.bench.metrics import read_engine_seconds, time_shares
    from ossia.cli.bench.processes import processes_for, run_load_in_processes

    task = progress.add_task(f"{concurrency} streams", total=len(requests))
    before = await read_engine_seconds(http)
    processes = processes_for(concurrency)
    common: dict[str, Any] = {
        "concurrency": concurrency,
        "max_seconds": args.max_seconds,
        "on_done": lambda: progress.advance(task),
    }
    if processes == 1:
        load = await run_load(http, requests, **common)
    else:
        load = await run_load_in_processes(
            args.url, headers, requests, processes=processes, **common
        )
    after = await read_engine_seconds(http)
    return _row(concurrency, load, time_shares(before, after, load.seconds))


def _row(concurrency: int, load: LoadResult, shares: TimeShares) -> Row:
    good = [result for result in load.requests if result.error is None]
    errors = [result.error for result in load.requests if result.error is not None]
    tokens = sum(result.completion_tokens for result in good)
    return Row(
        concurrency=concurrency,
        requests=len(load.requests),
        errors=len(errors),
        unfinished=load.unfinished,
        seconds=load.seconds,
        time_to_first_token=summarize(
            [result.first - result.started for result in good if result.first is not None]
        ),
        inter_token_latency=summarize([gap for result in good for gap in result.gaps]),
        output_tokens=tokens,
        output_tokens_per_second=tokens / load.seconds if load.seconds > 0 else math.nan,
        prompt_tokens=sum(result.prompt_tokens for result in good),
        cached_prompt_tokens=sum(result.cached_tokens for result in good),
        share_outside_model=shares.not_model,
        share_in_steps_outside_model=shares.step,
        first_error=errors[0] if errors else None,
    )


def _requests(
    args: argparse.Namespace, model: str, count: int, seed: int, output: tuple[int, int]
) -> list[HttpRequest]:
    if args.prompts == "demo":
        return demo_requests(count, model=model, output_length=output, seed=seed)
    return random_requests(
        count, model=model, input_length=args.input_len, output_length=output, seed=seed
    )


async def _warm_up(http: httpx.AsyncClient, requests: Sequence[HttpRequest]) -> None:
    from ossia.cli.bench.load import send

    for request in requests:
        result = await send(http, request)
        if result.error is not None:
            raise StartupError(f"The server refused the first request: {result.error}.")


async def _first_model(http: httpx.AsyncClient, url: str) -> str:
    import httpx

    try:
        response = await http.get("/v1/models")
        response.raise_for_status()
        return str(response.json()["data"][0]["id"])
    except httpx.HTTPStatusError as error:
        raise StartupError(
            f"The server at {url} answers with status {error.response.status_code}; "
            "401 means that it wants --api-key."
        ) from error
    except httpx.HTTPError as error:
        raise StartupError(
            f"No server answers at {url}; start one with `ossia serve`, or give --url."
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise StartupError(f"{url} lists no models; is it an OpenAI-compatible server?") from error


def _print(model: str, args: argparse.Namespace, rows: Sequence[Row]) -> None:
    columns = [
        "streams",
        "requests",
        "TTFT p50",
        "TTFT p99",
        "ITL p50",
        "ITL p99",
        "tokens/s",
        "outside model",
        "errors",
    ]
    title = f"{model}, {args.prompts} prompts (TTFT: time to first token, ITL: inter-token latency)"
    print_table(title, columns, [_cells(row) for row in rows])
    cached = sum(row.cached_prompt_tokens for row in rows)
    total = sum(row.prompt_tokens for row in rows)
    if cached:
        print(f"{cached / total:.0%} of prompt tokens came from the prefix cache.")
    for row in rows:
        if row.first_error:
            print(f"{row.concurrency} streams, first error: {row.first_error}")
        if row.unfinished:
            print(f"{row.concurrency} streams: {row.unfinished} requests cut off by --max-seconds.")


def _cells(row: Row) -> list[str]:
    first, gaps = row.time_to_first_token, row.inter_token_latency
    outside: Any = row.share_outside_model
    return [
        str(row.concurrency),
        str(row.requests),
        milliseconds(first.median),
        milliseconds(first.p99),
        milliseconds(gaps.median),
        milliseconds(gaps.p99),
        f"{row.output_tokens_per_second:.1f}",
        "-" if math.isnan(outside) else f"{outside:.1%}",
        str(row.errors + row.unfinished),
    ]
