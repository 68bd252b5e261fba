"""The servers of the operator: there from the start, or as soon as they can be."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from ossia.tools.mcp.servers import McpServers
from ossia.tools.mcp.spec import McpServerSpec

from .conftest import (
    CONTEXT,
    ThirdParty,
    by_name,
    process_is_gone,
    stdio_spec,
    wait_until,
)


def test_their_tools_are_there_after_the_start_and_processes_end_with_it(
    third_party: ThirdParty, tmp_path: Path
) -> None:
    async def run() -> None:
        servers = McpServers([third_party.spec, stdio_spec(tmp_path)], start_seconds=60)
        await servers.start()
        assert {tool.server_label for tool in servers.tools()} == {"third", "piped"}
        piped = servers.connection("piped")
        assert piped is not None
        process = int((await by_name(piped.tools)["pid"].call({}, CONTEXT)).text)
        await servers.close()
        await wait_until(lambda: process_is_gone(process))
        assert servers.connection("other") is None

    asyncio.run(run())


def test_one_that_is_down_is_waited_for_with_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = ThirdParty("streamable-http", tmp_path)

    def lines() -> list[str]:
        return [record.message for record in caplog.records if record.name.startswith("ossia")]

    async def run() -> None:
        servers = McpServers([server.spec], start_seconds=60, first_retry_seconds=0.1)
        await servers.start()
        assert servers.tools() == []
        assert len(lines()) == 1
        await asyncio.to_thread(server.start)
        await wait_until(lambda: bool(servers.tools()))
        await servers.close()

    with caplog.at_level(logging.WARNING, "ossia"):
        try:
            asyncio.run(run())
        finally:
            server.kill()
    assert lines() == [
        f"The MCP server 'third' at http://127.0.0.1:{server.port}/mcp cannot be reached. "
        "It is tried again in the background."
    ]


def test_the_start_does_not_wait_for_a_server_that_says_nothing() -> None:
    async def run() -> None:
        silent = McpServerSpec(
            "silent", "stdio", command="sh", args=("-c", "while read line; do :; done")
        )
        servers = McpServers([silent], start_seconds=0.1)
        await asyncio.wait_for(servers.start(), 20)
        await servers.close()

    asyncio.run(run())


def test_no_servers_is_fine() -> None:
    async def run() -> None:
        servers = McpServers([])
        await servers.start()
        assert servers.tools() == []
        await servers.close()

    asyncio.run(run())
