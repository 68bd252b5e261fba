"""The `ossia` command: one module a subcommand, each imported for its options only.

What is slow to import (torch, httpx, rich) is imported by the functions that use it, so that
`ossia --help` and every refused option answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from ossia import __version__
from ossia.cli import bench, chat, convert, doctor, generate, mcp, serve
from ossia.cli.parser import USAGE_ERROR, Parser
from ossia.errors import ConfigError, OssiaError

DEBUG_VARIABLE = "OSSIA_DEBUG"
_COMMANDS = (serve, chat, generate, bench, convert, doctor, mcp)
_INTERRUPTED = 130  # as shells report a command that SIGINT ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (default: the process's own) and return its exit code.

    2: the command line is refused; 1: it failed, with one sentence on stderr.
    """
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return USAGE_ERROR
    debug = args.debug or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    try:
        return int(args.run(args))
    except OssiaError as error:
        if debug:
            raise
        print(f"{args.parser.prog}: {error.message}", file=sys.stderr)
        return USAGE_ERROR if isinstance(error, ConfigError) else 1
    except KeyboardInterrupt:
        if debug:
            raise
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader of our output is gone; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> Parser:
    """The parser of the whole command; parsed arguments have `run` and the `parser` they hit."""
    parser = Parser(
        prog="ossia",
        description="Serve OpenAI's gpt-oss models.",
        epilog="ossia COMMAND --help tells the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"ossia {__version__}")
    _add_debug(parser, default=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        sub = commands.add_parser(name, help=module.HELP, description=f"{_capital(module.HELP)}.")
        sub.set_defaults(run=module.run, parser=sub)
        module.add_arguments(sub)
        _add_debug(sub, default=argparse.SUPPRESS)
    return parser


def _add_debug(parser: argparse.ArgumentParser, default: bool | str) -> None:
    parser.add_argument(
        "--debug",
        action="store_true",
        default=default,
        help=f"show the traceback of an error (also {DEBUG_VARIABLE}=1)",
    )


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
