"""An MCP server as others write them, run as a program: with the SDK's own server class.

    python third_party.py stdio|streamable-http|sse PORT FOLDER [--legacy]

Its tools note in FOLDER what happens to them. `--legacy` speaks the protocol up to 2025-11-25 only.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import METHOD_NOT_FOUND, RequestParams, ToolAnnotations

TRANSPORT, PORT, FOLDER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
server = MCPServer("third-party", log_level="ERROR")


@server.tool()
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


@server.tool()
def pid() -> str:
    """The id of this process."""
    return str(os.getpid())


async def _wait(name: str, seconds: float) -> str:
    with (FOLDER / f"{name}.started").open("a") as file:
        file.write("x")
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        (FOLDER / f"{name}.cancelled").touch()
        raise
    return "waited"


@server.tool()
async def wait(name: str, seconds: float) -> str:
    """Wait."""
    return await _wait(name, seconds)


@server.tool()
async def wait_for_file(name: str) -> str:
    """Wait until there is a file of this name."""
    while not (FOLDER / name).exists():
        await asyncio.sleep(0.02)
    return "found"


@server.tool(annotations=ToolAnnotations(idempotentHint=True))
async def wait_first_time(name: str) -> str:
    """Wait for long, but only in the first process that is asked to."""
    if (FOLDER / f"{name}.started").exists():
        return "at once"
    return await _wait(name, 60)


@server.tool()
async def count(ctx: Context) -> str:
    """Report progress."""
    await ctx.report_progress(1, 3)
    await ctx.report_progress(2, 3, "nearly there")
    await ctx.report_progress(3, 3)
    return "counted"


@server.tool()
def fail() -> str:
    """Go wrong."""
    raise ToolError("the disk is full")


@server.tool()
def figures() -> dict[str, int]:
    """Structured content."""
    return {"answer": 42}


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Text and an image."""
    return ["A dot:", Image(data=b"\x89PNG", format="png")]


@server.tool()
async def grow(ctx: Context) -> str:
    """Get one tool more."""

    def new_tool() -> str:
        """A tool that was not there before."""
        return "new"

    server.add_tool(new_tool)
    await ctx.notify_tools_changed()
    if "--legacy" in sys.argv:
        await ctx.session.send_tool_list_changed()
    return "grown"


@server.tool()
async def ask_back(ctx: Context) -> str:
    """Ask the client for what it need not give."""
    refusals = []
    for question in (
        lambda: ctx.session.list_roots(),
        lambda: ctx.session.elicit_form("Your name?", {"type": "object", "properties": {}}),
        lambda: ctx.session.create_message([], max_tokens=1),
    ):
        try:
            await question()
            refusals.append("answered")
        except MCPError as error:
            refusals.append(f"declined {error.code}")
    return ", ".join(refusals)


async def unknown(ctx: Any, params: RequestParams) -> Any:
    raise MCPError(METHOD_NOT_FOUND, "Method not found")


if "--legacy" in sys.argv:
    server._lowlevel_server.add_request_handler("server/discover", RequestParams, unknown)
if TRANSPORT == "stdio":
    server.run("stdio")
else:
    server.run(TRANSPORT, host="127.0.0.1", port=PORT)
