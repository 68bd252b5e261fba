"""`ossia bench throughput`: many requests of mixed lengths at once, in this process."""

from __future__ import annotations

import argparse
import random

from ossia.cli.bench.inprocess import check_fits, fixed_length, run_requests, start
from ossia.cli.bench.report import check_writable, print_table, write_json
from ossia.cli.bench.workload import random_tokens
from ossia.cli.options import add_engine_options, add_model, engine_config
from ossia.cli.values import length_range, real_number, whole_number
from ossia.errors import OssiaError

HELP = "time many requests of mixed lengths in this process"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia bench throughput`."""
    add_model(parser)
    group = parser.add_argument_group("benchmark options")
    group.add_argument(
        "--num-requests",
        type=whole_number(1, 100_000),
        default=64,
        metavar="N",
        help="requests, all there from the start (default: 64)",
    )
    group.add_argument(
        "--input-len",
        type=length_range,
        default=(32, 256),
        metavar="N[-N]",
        help="tokens of a prompt (default: 32-256)",
    )
    group.add_argument(
        "--output-len",
        type=length_range,
        default=(16, 64),
        metavar="N[-N]",
        help="tokens of an answer (default: 16-64)",
    )
    group.add_argument(
        "--max-seconds",
        type=real_number(0, low_open=True),
        default=600.0,
        metavar="S",
        help="time limit; what was done until then counts (default: 600)",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run every request and print tokens and requests a second; 1 if the time limit cut it."""
    from rich.console import Console
    from rich.progress import Progress

    config = engine_config(args)
    check_writable(args.json)
    core = start(config)
    check_fits(core, args.input_len[1] + args.output_len[1])
    rng = random.Random(args.seed)
    requests = [
        fixed_length(
            str(number),
            random_tokens(rng, rng.randint(*args.input_len)),
            rng.randint(*args.output_len),
            number,
        )
        for number in range(args.num_requests)
    ]
    warm_up = [fixed_length("warm-up", random_tokens(rng, args.input_len[0]), 2, 0)]
    run_requests(core, warm_up, max_seconds=args.max_seconds)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("requests", total=len(requests))
        result = run_requests(
            core,
            requests,
            max_seconds=args.max_seconds,
            on_finished=lambda: progress.advance(task),
        )
    if not result.generated_tokens:
        raise OssiaError(f"No token was generated in {args.max_seconds:g} s: raise --max-seconds.")
    rates = {
        "requests/s": result.finished / result.seconds,
        "output tokens/s": result.generated_tokens / result.seconds,
        "all tokens/s": (result.prompt_tokens + result.generated_tokens) / result.seconds,
        "share outside model": 1 - result.model_seconds / result.seconds,
    }
    info = core.info
    title = (
        f"{info.model} on {info.device}, {info.dtype}, attention {info.attention_backend}: "
        f"{result.finished} of {len(requests)} requests, {result.prompt_tokens} + "
        f"{result.generated_tokens} tokens in {result.seconds:.1f} s"
    )
    print_table(title, list(rates), [[f"{value:.2f}" for value in rates.values()]])
    settings = {name: getattr(args, name) for name in ("num_requests", "input_len", "output_len")}
    figures = {
        "finished": result.finished,
        "seconds": result.seconds,
        "prompt_tokens": result.prompt_tokens,
        "output_tokens": result.generated_tokens,
        **{name.replace(" ", "_").replace("/", "_per_"): value for name, value in rates.items()},
    }
    names = {name: getattr(info, name) for name in ("model", "device", "dtype")}
    write_json(args.json, "throughput", {**names, **settings, "seed": args.seed, **figures})
    return 0 if result.finished == len(requests) else 1
