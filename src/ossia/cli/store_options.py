"""Options for the store of responses and conversations."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ossia.cli.values import choice, not_empty, real_number

KEY_VARIABLE = "OSSIA_RESPONSE_KEY"
_DAY = 86400.0  # seconds
_NEVER = "never"


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group(
        "stored responses",
        f"The key that seals the reasoning which clients carry is {KEY_VARIABLE}, or else a file "
        "in the user's data folder; several servers that share clients need the same.",
    )
    group.add_argument(
        "--response-store",
        type=not_empty,
        metavar="URL",
        help="sqlite:///FILE, postgresql://USER:PASSWORD@HOST/DATABASE, or memory "
        "(default: a file in the user's data folder)",
    )
    group.add_argument(
        "--response-expiry",
        type=_days,
        default=30.0,
        metavar="DAYS",
        help="days after their last use that responses are deleted, or never (default: 30)",
    )
    group.add_argument(
        "--response-events",
        type=choice("openai", "open-responses"),
        default="openai",
        metavar="openai|open-responses",
        help="whose names the events of reasoning have in streams (default: openai)",
    )


def store_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `ServerConfig` that these options set."""
    days = args.response_expiry
    return {
        "response_store": args.response_store,
        "response_max_age": None if days is None else days * _DAY,
        "response_events": args.response_events,
        "response_key": os.environ.get(KEY_VARIABLE) or None,
    }


def _days(text: str) -> float | None:
    return None if text == _NEVER else real_number(0, low_open=True)(text)
