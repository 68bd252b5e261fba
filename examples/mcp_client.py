"""Use the tools of the server from any MCP client; no model takes part.

ossia serve demo --tool-server demo --enable-mcp-tool-server      # in another terminal
python examples/mcp_client.py

Clients that are configured with a file want the same address: http://127.0.0.1:8000/mcp
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from mcp import Client

SERVER = os.environ.get("OSSIA_URL", "http://127.0.0.1:8000")


async def main() -> None:
    async with Client(f"{SERVER}/mcp") as client:
        print("protocol:", client.protocol_version)
        for tool in (await client.list_tools()).tools:
            print(f"tool:     {tool.name}({', '.join(tool.input_schema['properties'])})")
        await call(client, "calculator", expression="17 * 23")
        await call(client, "calculator", expression="comb(52, 5) / 2^10")
        await call(client, "calculator", expression="1 / 0")  # an error for the model to read
        await call(client, "echo", text="hello")


async def call(client: Client, name: str, **arguments: Any) -> None:
    result = await client.call_tool(name, arguments)
    text = " ".join(part.text for part in result.content if part.type == "text")
    print(f"{'error' if result.is_error else 'result'}:".ljust(9), f"{name} {arguments} -> {text}")


asyncio.run(main())
