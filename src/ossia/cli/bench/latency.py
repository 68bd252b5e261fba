"""`ossia bench latency`: one batch of equal requests, again and again, in this process."""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import asdict

from ossia.cli.bench.inprocess import RunResult, check_fits, fixed_length, run_requests, start
from ossia.cli.bench.report import check_writable, print_table, write_json
from ossia.cli.bench.statistics import Summary, milliseconds, summarize
from ossia.cli.bench.workload import random_tokens
from ossia.cli.options import add_engine_options, add_model, engine_config
from ossia.cli.values import real_number, token_count, whole_number
from ossia.errors import OssiaError

HELP = "time one batch of equal requests in this process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia bench latency`."""
    add_model(parser)
    group = parser.add_argument_group("benchmark options")
    group.add_argument(
        "--batch-size",
        type=whole_number(1, 4096),
        default=1,
        metavar="N",
        help="requests at the same time (default: 1)",
    )
    group.add_argument(
        "--input-len",
        type=token_count,
        default=128,
        metavar="TOKENS",
        help="length of each prompt (default: 128)",
    )
    group.add_argument(
        "--output-len",
        type=token_count,
        default=64,
        metavar="TOKENS",
        help="length of each answer (default: 64)",
    )
    group.add_argument(
        "--num-warmup",
        type=whole_number(0, 1000),
        default=2,
        metavar="N",
        help="batches that are not counted (default: 2)",
    )
    group.add_argument(
        "--num-iters",
        type=whole_number(1, 10_000),
        default=10,
        metavar="N",
        help="batches that are (default: 10)",
    )
    group.add_argument(
        "--max-seconds",
        type=real_number(0, low_open=True),
        default=600.0,
        metavar="S",
        help="time limit; later batches are left out (default: 600)",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Time the batches and print their statistics.

    Raises:
        OssiaError: not even one batch was finished in time.
    """
    config = engine_config(args)
    check_writable(args.json)
    core = start(config)
    check_fits(core, args.input_len + args.output_len)
    rng = random.Random(args.seed)
    deadline = time.monotonic() + args.max_seconds
    measured: list[RunResult] = []
    for batch in range(args.num_warmup + args.num_iters):
        # New prompts each time: a prefix cache must not answer for the network.
        requests = [
            fixed_length(
                f"{batch}-{number}", random_tokens(rng, args.input_len), args.output_len, number
            )
            for number in range(args.batch_size)
        ]
        result = run_requests(core, requests, max_seconds=deadline - time.monotonic())
        if result.finished < len(requests):
            break
        if batch >= args.num_warmup:
            measured.append(result)
    if not measured:
        raise OssiaError(
            f"No batch was finished in {args.max_seconds:g} s: shorten it or raise --max-seconds."
        )
    figures = {
        "batch": summarize([result.seconds for result in measured]),
        "time to first token": summarize([max(result.first_tokens) for result in measured]),
        "inter-token latency": summarize([gap for result in measured for gap in result.gaps]),
    }
    info = core.info
    title = (
        f"{info.model} on {info.device}, {info.dtype}, attention {info.attention_backend}: "
        f"{args.batch_size} x ({args.input_len} + {args.output_len}) tokens, "
        f"{len(measured)} batches"
    )
    columns = ["", "median", "mean", "p90", "p99", "maximum"]
    print_table(title, columns, [[name, *_cells(figure)] for name, figure in figures.items()])
    settings = {name: getattr(args, name) for name in ("batch_size", "input_len", "output_len")}
    write_json(
        args.json,
        "latency",
        {
            **{name: getattr(info, name) for name in ("model", "device", "dtype")},
            **settings,
            "batches": len(measured),
            "seconds": {name.replace(" ", "_"): asdict(figure) for name, figure in figures.items()},
        },
    )
    return 0


def _cells(figure: Summary) -> list[str]:
    values = (figure.median, figure.mean, figure.p90, figure.p99, figure.maximum)
    return [milliseconds(value) for value in values]
