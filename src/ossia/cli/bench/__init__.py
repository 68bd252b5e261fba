"""`ossia bench`: how fast kernels, engine and server are on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from ossia.cli.bench import kernels, latency, serve, throughput
from ossia.cli.parser import Parser

HELP = "measure latency, throughput, a running server, or the kernels"
_BENCHMARKS = (latency, throughput, serve, kernels)


def add_arguments(parser: Parser) -> None:
    """One subcommand for each benchmark."""
    kinds = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK", required=True)
    for module in _BENCHMARKS:
        name = module.__name__.rpartition(".")[2]
        sub = kinds.add_parser(
            name, help=module.HELP, description=f"{module.HELP[0].upper()}{module.HELP[1:]}."
        )
        sub.set_defaults(run=module.run, parser=sub)
        if module is not kernels:  # which prints its JSON where no file is named
            sub.add_argument(
                "--json", type=Path, metavar="FILE", help="also write the figures to this file"
            )
        module.add_arguments(sub)


def run(args: argparse.Namespace) -> int:
    """Replaced by the benchmark's own function once one is named."""
    return int(args.run(args))
