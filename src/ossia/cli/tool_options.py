"""Options for the tools that the server runs."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import Any

from ossia.cli.values import byte_count, not_empty, real_number
from ossia.config import ServerConfig

_DEFAULTS = {field.name: field.default for field in fields(ServerConfig)}


def add_tool_options(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    group = parser.add_argument_group("tools that the server runs")
    group.add_argument(
        "--tool",
        dest="tools",
        action="append",
        type=not_empty,
        metavar="NAME",
        help="calculator, echo, time, python, browser, an installed plug-in, or module:object; "
        "repeatable (default: none)",
    )
    group.add_argument(
        "--tool-server",
        dest="tool_servers",
        action="append",
        type=not_empty,
        metavar="URL",
        help="MCP server, or several with commas between them, or a JSON file that lists them; "
        "demo stands for calculator, echo and time (default: none)",
    )
    group.add_argument(
        "--enable-mcp-tool-server",
        dest="mcp_tool_server",
        action="store_true",
        help="offer the tools to MCP clients at /mcp (default: off)",
    )
    group.add_argument(
        "--allowed-host",
        dest="allowed_hosts",
        action="append",
        type=not_empty,
        metavar="HOST",
        help="host, HOST:PORT, *.DOMAIN or network that tools may reach for a request although it "
        "is not public; repeatable (default: none)",
    )
    group.add_argument(
        "--browser-folder",
        type=not_empty,
        metavar="DIR",
        help="documents that the browser tool searches",
    )
    group.add_argument(
        "--browser-search-url",
        type=not_empty,
        metavar="URL",
        help="SearXNG service that the browser tool asks",
    )
    group.add_argument(
        "--python-memory",
        type=byte_count,
        default=_DEFAULTS["python_memory"],
        metavar="SIZE",
        help="memory for the code of one conversation (default: 1GiB)",
    )
    group.add_argument(
        "--python-timeout",
        type=real_number(0, low_open=True),
        default=_DEFAULTS["python_timeout"],
        metavar="SECONDS",
        help="time for one piece of code (default: 60)",
    )


def tool_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of `ServerConfig` that these options set."""
    return {
        "tools": tuple(args.tools or ()),
        "tool_servers": tuple(args.tool_servers or ()),
        "mcp_tool_server": args.mcp_tool_server,
        "allowed_hosts": tuple(args.allowed_hosts or ()),
        "browser_folder": args.browser_folder,
        "browser_search_url": args.browser_search_url,
        "python_memory": args.python_memory,
        "python_timeout": args.python_timeout,
    }
