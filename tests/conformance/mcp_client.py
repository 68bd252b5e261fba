"""The client that the MCP conformance suite drives: our own, told a URL.

MCP_CONFORMANCE_SCENARIO=tools_call python mcp_client.py URL
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any
from urllib.parse import urlsplit

from ossia.tools.addresses import AddressRules
from ossia.tools.mcp.connection import McpConnection
from ossia.tools.mcp.spec import McpServerSpec
from ossia.tools.tool import CallContext

CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "tools_call": ("add_numbers", {"a": 5, "b": 3}),
    "sse-retry": ("test_reconnection", {}),
    "elicitation-sep1034-client-defaults": ("test_client_elicitation_defaults", {}),
}


async def main(url: str, scenario: str) -> None:
    rules = AddressRules([urlsplit(url).hostname or ""])
    spec = McpServerSpec("conformance", "streamable_http", url=url)
    connection = await McpConnection.open(spec, rules)
    tools = {tool.name: tool for tool in await connection.list_tools()}
    print("tools:", ", ".join(tools))
    if scenario in CALLS:
        name, arguments = CALLS[scenario]
        print((await tools[name].call(arguments, CallContext("conformance"))).text)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], os.environ.get("MCP_CONFORMANCE_SCENARIO", "")))
