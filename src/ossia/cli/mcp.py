"""`ossia mcp`: offer tools to an MCP client, which starts this command itself. No model runs."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from ossia.cli.values import not_empty

if TYPE_CHECKING:
    from ossia.tools.registry import ToolRegistry

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
    """Serve until the client closes our standard input, or SIGINT or SIGTERM comes.

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

    return asyncio.run(_serve(registry))


async def _serve(registry: ToolRegistry) -> int:
    from ossia.tools.mcp.stdio import serve_stdio

    stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # of loops on Windows
            asyncio.get_running_loop().add_signal_handler(number, _stop, stopped, number)
    serving = asyncio.create_task(serve_stdio(tuple(registry.tools.values())))
    ends: list[asyncio.Future[Any]] = [serving, stopped]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await registry.close()
    if not serving.done():
        # The thread that waits for our input cannot be interrupted, and Python waits for it.
        sys.stderr.flush()
        os._exit(128 + stopped.result())  # as shells report it
    serving.result()
    return 0


def _stop(stopped: asyncio.Future[int], number: int) -> None:
    if not stopped.done():
        stopped.set_result(number)
