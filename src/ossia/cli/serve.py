"""`ossia serve`: the OpenAI-compatible HTTP server."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Sequence
from dataclasses import fields

from ossia.cli.options import add_engine_options, add_model, engine_config
from ossia.cli.store_options import add_store_options, store_settings
from ossia.cli.tool_options import add_tool_options, tool_settings
from ossia.cli.values import choice, not_empty, whole_number
from ossia.config import ServerConfig

HELP = "serve a model over HTTP, compatible with OpenAI's API"
API_KEY_VARIABLE = "OSSIA_API_KEY"
_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia serve`."""
    add_model(parser)
    group = parser.add_argument_group("server options")
    group.add_argument(
        "--host",
        type=not_empty,
        default=_DEFAULTS["host"],
        metavar="ADDRESS",
        help=f"address to listen on; 0.0.0.0 is every one (default: {_DEFAULTS['host']})",
    )
    group.add_argument(
        "--port",
        type=whole_number(0, 65535),
        default=_DEFAULTS["port"],
        metavar="N",
        help=f"port to listen on; 0 takes a free one (default: {_DEFAULTS['port']})",
    )
    group.add_argument(
        "--api-key",
        dest="api_keys",
        action="append",
        type=not_empty,
        metavar="KEY",
        help="key that clients must send, repeatable "
        f"(default: those in {API_KEY_VARIABLE}, separated by commas, or none)",
    )
    group.add_argument(
        "--served-model-name",
        dest="served_model_names",
        action="append",
        type=not_empty,
        metavar="NAME",
        help="name of the model in the API, repeatable (default: the model's own name)",
    )
    group.add_argument(
        "--max-waiting",
        type=whole_number(1),
        default=_DEFAULTS["max_waiting"],
        metavar="N",
        help="requests that may queue before new ones get status 429 "
        f"(default: {_DEFAULTS['max_waiting']})",
    )
    group.add_argument(
        "--prompt-date",
        type=not_empty,
        default=_DEFAULTS["prompt_date"],
        metavar="DATE",
        help="date that the model is told: today (UTC), none, or YYYY-MM-DD "
        f"(default: {_DEFAULTS['prompt_date']})",
    )
    group.add_argument(
        "--turn-grammar",
        type=choice("on", "off"),
        default="on" if _DEFAULTS["turn_grammar"] else "off",
        metavar="on|off",
        help="hold answers to the harmony format, the declared tools and response_format; off "
        "refuses what needs it (default: on)",
    )
    add_tool_options(parser)
    add_store_options(parser)
    levels = ("debug", "info", "warning", "error")
    group.add_argument(
        "--log-level",
        type=choice(*levels),
        default="info",
        metavar="|".join(levels),
        help="least important messages to print (default: info)",
    )
    add_engine_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal ends it.

    Raises:
        StartupError: the configuration cannot run here.
    """
    engine, server = engine_config(args), server_config(args)
    logging.basicConfig(
        level=args.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
    )
    for client in ("httpx", "httpx2"):  # a line for each request of a tool
        logging.getLogger(client).setLevel(logging.WARNING)
    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # tracebacks for faults of other servers
    from ossia.server.run import serve

    serve(engine, server)
    return 0


def server_config(args: argparse.Namespace) -> ServerConfig:
    """The configuration that the server options describe.

    Raises:
        ConfigError: a value that cannot work.
    """
    return ServerConfig(
        host=args.host,
        port=args.port,
        api_keys=_api_keys(args.api_keys),
        served_model_names=tuple(args.served_model_names or ()),
        max_waiting=args.max_waiting,
        prompt_date=args.prompt_date,
        turn_grammar=args.turn_grammar == "on",
        **tool_settings(args),
        **store_settings(args),
    )


def _api_keys(given: Sequence[str] | None) -> tuple[str, ...]:
    if given:
        return tuple(given)
    keys = os.environ.get(API_KEY_VARIABLE, "").split(",")
    return tuple(key.strip() for key in keys if key.strip())
