"""`ossia bench kernels`: the kernels alone, against what this machine's memory and torch can do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ossia.cli.bench.report import check_writable, print_table, write_json
from ossia.cli.values import choice, whole_number

if TYPE_CHECKING:
    from ossia.kernels.native.measure import Measurement

HELP = "time the kernels of the CPU path against a plain read and a plain matrix product"
_STDOUT = Path("-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia bench kernels`."""
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=_STDOUT,
        metavar="FILE",
        help="print JSON instead of a table, or write it to this file as well",
    )
    parser.add_argument(
        "--device", type=choice("cpu"), default="cpu", metavar="cpu", help="what to measure"
    )
    parser.add_argument(
        "--level",
        metavar="NAME",
        help="of instructions, such as avx2 (default: the best here; `ossia doctor` names them)",
    )
    parser.add_argument(
        "--threads",
        type=whole_number(1, 1024),
        metavar="N",
        help="threads that compute (default: one a core)",
    )
    parser.add_argument(
        "--rounds",
        type=whole_number(1, 1000),
        default=10,
        metavar="N",
        help="how often each is timed; the best counts (default: 10)",
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print.

    Raises:
        NativeUnavailable: the library was not built, or has no such level.
    """
    # They import torch: only when something is measured.
    from ossia.kernels.native.library import open_context
    from ossia.kernels.native.measure import measure

    to_file = None if args.json == _STDOUT else args.json
    check_writable(to_file)
    context = open_context(args.level, args.threads)
    found = measure(context, rounds=args.rounds)
    figures = {
        "device": "cpu",
        "level": context.level,
        "threads": context.threads,
        "kernels": [_entry(one) for one in found],
    }
    if args.json == _STDOUT:
        print(json.dumps(figures, indent=2))
        return 0
    print_table(
        f"Native CPU kernels, {context.level}, {context.threads} threads",
        ["kernel", "speed", "", "of the ceiling"],
        [[one.name, f"{one.speed:.1f}", one.unit, f"{one.share_of_ceiling:.0%}"] for one in found],
    )
    write_json(to_file, "kernels", figures)
    return 0


def _entry(one: Measurement) -> dict[str, Any]:
    key = "gb_s" if one.unit == "GB/s" else "gflop_s"
    return {
        "name": one.name,
        key: round(one.speed, 2),
        "share_of_ceiling": round(one.share_of_ceiling, 4),
    }
