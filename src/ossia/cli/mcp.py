"""`ossia mcp`: offer tools to an MCP client, which starts this command itself. No model runs."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys

from ossia.cli.values import not_empty

HELP = "offer tools to an MCP client over standard input and output"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `ossia mcp`."""
    parser.add_argument(
        "--tool",
        action="append",
        type=not_empty,
        metavar="NAME",
        help="a tool, a plug-in, module:object, or demo for those that need nothing; "
        "may be given several times (default: demo)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until the client closes our standard input.

    Raises:
        ConfigError: a tool is unknown, or cannot be loaded.
    """
    from ossia.tools.options import ToolOptions
    from ossia.tools.registry import DEMO, load_tools

    # Standard output belongs to the protocol.
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    registry = load_tools(args.tool or [DEMO], ToolOptions())

    async def serve() -> None:
        from ossia.tools.mcp.stdio import serve_stdio

        try:
            await serve_stdio(tuple(registry.tools.values()))
        finally:
            await registry.close()

    asyncio.run(serve())
    return 0
