"""`ossia doctor`: what this machine has, what Ossia would choose on it, and what is broken."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from ossia.cli.values import not_empty, whole_number

if TYPE_CHECKING:
    from ossia.cli.doctor.check import Check

WARM_MODEL = "gpt-oss-20b"
HELP = "check this machine and this installation"
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia doctor`."""
    parser.add_argument(
        "--port",
        type=whole_number(1, 65535),
        default=8000,
        metavar="N",
        help="port to look at (default: 8000)",
    )
    parser.add_argument(
        "--warm",
        nargs="?",
        const=WARM_MODEL,
        type=not_empty,
        metavar="MODEL",
        help="compile the kernels of a model ahead, instead of the checks; its weights are not "
        f"needed (default: {WARM_MODEL})",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print one line for each check; the exit code is 1 if something is broken."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    checks = []
    for check in examine(args.port) if args.warm is None else warm_up(args.warm):
        checks.append(check)
        if not args.json:
            style = _STYLES[check.status]
            line = Text.assemble((f"{check.status:4}", style), f"  {check.name:16}  {check.detail}")
            console.print(line, soft_wrap=True)
    broken = any(check.status == "fail" for check in checks)
    if args.json:
        document = {"ok": not broken, "checks": [asdict(check) for check in checks]}
        print(json.dumps(document, indent=2))
    return 1 if broken else 0


def warm_up(model: str) -> Iterator[Check]:
    """Compile the kernels of a model."""
    from ossia.cli.doctor.check import guarded
    from ossia.cli.doctor.warm import warm

    yield from guarded("warm", lambda: warm(model))


def examine(port: int) -> Iterator[Check]:
    """Every check, in the order of a start-up."""
    from ossia.cli.doctor import machine, model, native, tools
    from ossia.cli.doctor.check import guarded

    yield from guarded("Python", machine.python)
    yield from guarded("torch", machine.torch)
    yield from guarded("CPU", machine.processor)
    yield from guarded("memory", machine.memory)
    yield from guarded("GPU", machine.gpu)
    yield from guarded("disk", machine.disk)
    yield from guarded("port", lambda: machine.port(port))
    yield from guarded("responses", tools.responses)
    yield from guarded("python tool", tools.python_tool)
    yield from guarded("tool plug-ins", tools.plugins)
    yield from guarded("vocabulary", model.vocabulary)
    yield from guarded("device", model.device)
    yield from guarded("kernels", model.kernels)
    yield from guarded("native", native.native)
    yield from guarded("demo", model.demo)
