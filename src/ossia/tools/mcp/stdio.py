"""Our tools for the one MCP client that started us: messages over standard input and output."""

from __future__ import annotations

from collections.abc import Sequence

from mcp.server.stdio import stdio_server

from ossia.tools.mcp.server import make_server
from ossia.tools.tool import Tool


async def serve_stdio(tools: Sequence[Tool]) -> None:
    """Serve until the client closes our standard input; the tools are left open."""
    server = make_server(lambda: tools, session="mcp-stdio")
    async with stdio_server() as (read, write):
        await server.run(read, write, server.create_initialization_options())
