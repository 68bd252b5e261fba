"""`ossia chat`: talk to a model in the terminal, here or on a server."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from ossia.cli.options import add_engine_options, add_model, chosen_model, engine_config
from ossia.cli.serve import API_KEY_VARIABLE
from ossia.cli.values import choice, not_empty, real_number, server_url, token_count
from ossia.sampling import SamplingParams
from ossia.turn import ReasoningEffort

if TYPE_CHECKING:
    from ossia.cli.chat.events import Backend
    from ossia.cli.chat.session import Session

HELP = "talk to a model in the terminal, here or on a server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia chat`."""
    add_model(parser)
    group = parser.add_argument_group("chat options")
    group.add_argument(
        "--url",
        type=server_url,
        metavar="URL",
        help="talk to this server instead of running the model here",
    )
    group.add_argument(
        "--api-key",
        type=not_empty,
        metavar="KEY",
        help=f"key of the server (default: {API_KEY_VARIABLE})",
    )
    efforts = tuple(effort.value for effort in ReasoningEffort)
    group.add_argument(
        "--effort",
        type=choice(*efforts),
        default="medium",
        metavar="|".join(efforts),
        help="how much the model reasons (default: medium)",
    )
    group.add_argument(
        "--system", type=not_empty, metavar="TEXT", help="instructions (default: none)"
    )
    group.add_argument(
        "--tools",
        type=not_empty,
        default="none",
        metavar="NAME[,NAME]",
        help="functions to offer and run: calculator, echo, time, demo for these three, a plug-in, "
        "or module:object (default: none)",
    )
    group.add_argument(
        "--max-tokens",
        type=token_count,
        metavar="TOKENS",
        help="longest answer (default: up to the context's end)",
    )
    group.add_argument(
        "--temperature",
        type=real_number(0, 100),
        default=1.0,
        metavar="T",
        help="0 takes the likeliest token (default: 1.0)",
    )
    group.add_argument(
        "--no-reasoning", action="store_true", help="do not show reasoning (default: dimmed)"
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Chat until the input ends; the exit code is 1 if a piped question could not be answered.

    Raises:
        StartupError: the model cannot be loaded, or no server answers.
    """
    from rich.console import Console

    from ossia.cli.chat.session import Session
    from ossia.cli.chat.tools import local_tools
    from ossia.cli.chat.view import PlainView, TerminalView

    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    out, err = Console(highlight=False), Console(stderr=True, highlight=False)
    backend = _backend(args)
    session = Session(
        backend,
        TerminalView(out, show_reasoning=not args.no_reasoning)
        if interactive
        else PlainView(out, err),
        tools=local_tools(args.tools),
        effort=ReasoningEffort(args.effort),
        system=args.system,
    )
    try:
        if interactive:
            print(f"{backend.name}. /help lists commands, Ctrl-D leaves.")
            _converse(session)
            return 0
        question = sys.stdin.read().strip()
        return 0 if not question or session.ask(question) else 1
    finally:
        backend.close()


def _backend(args: argparse.Namespace) -> Backend:
    sampling = SamplingParams(temperature=args.temperature, max_tokens=args.max_tokens)
    if args.url:
        from ossia.cli.chat.server import ServerBackend

        return ServerBackend(
            args.url,
            model=chosen_model(args) if args.model or args.model_option else None,
            api_key=args.api_key or os.environ.get(API_KEY_VARIABLE),
            sampling=sampling,
        )
    config = engine_config(args)
    from ossia.cli.progress import startup_progress

    with startup_progress() as progress:
        from ossia.cli.chat.local import LocalBackend

        return LocalBackend(config, sampling=sampling, progress=progress)


def _converse(session: Session) -> None:
    from ossia.cli.chat.prompt import read_message

    while True:
        try:
            message = read_message("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\nCtrl-D leaves.")
            continue
        if not message.strip():
            continue
        if message.startswith("/") and "\n" not in message:
            if not session.command(message):
                return
        else:
            session.ask(message)
