"""Servers that requests name: shared by those who may share them, and not kept for ever."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from ossia.errors import InvalidRequest
from ossia.tools.addresses import AddressRules, ForbiddenAddress
from ossia.tools.mcp.request_servers import RequestServers
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable

from .conftest import CONTEXT, RULES, ThirdParty, by_name, free_port, stdio_spec, wait_until


def test_requests_share_a_connection_but_not_its_label_and_tools(third_party: ThirdParty) -> None:
    async def run() -> None:
        servers = RequestServers(RULES)
        mine = dataclasses.replace(third_party.spec, label="mine", allowed_tools=("add",))
        yours = dataclasses.replace(third_party.spec, label="yours")
        first, second = await asyncio.gather(servers.connect(mine), servers.connect(yours))
        assert len(servers) == 1
        assert [tool.name for tool in first.tools] == ["add"]
        assert {tool.server_label for tool in second.tools} == {"yours"}
        await first.close()
        assert (await by_name(second.tools)["add"].call({"a": 1, "b": 2}, CONTEXT)).text == "3"
        await servers.close()

    asyncio.run(run())


def test_other_headers_have_another_connection(third_party: ThirdParty) -> None:
    async def run() -> None:
        servers = RequestServers(RULES)
        await servers.connect(third_party.spec)
        await servers.connect(
            dataclasses.replace(third_party.spec, headers={"authorization": "Bearer other"})
        )
        assert len(servers) == 2
        await servers.close()

    asyncio.run(run())


def test_an_idle_connection_is_closed_and_opened_again_when_needed(
    third_party: ThirdParty,
) -> None:
    async def run() -> None:
        servers = RequestServers(RULES, idle_seconds=0.1)
        connection = await servers.connect(third_party.spec)
        wait = by_name(connection.tools)["wait"]
        # A call that takes longer than that is not idleness.
        assert (await wait.call({"name": "idle", "seconds": 0.5}, CONTEXT)).text == "waited"
        await wait_until(lambda: len(servers) == 0)
        assert (await wait.call({"name": "idle", "seconds": 0}, CONTEXT)).text == "waited"
        await servers.close()

    asyncio.run(run())


def test_the_one_used_longest_ago_makes_room_unless_all_are_busy(third_party: ThirdParty) -> None:
    async def run() -> None:
        servers = RequestServers(RULES, max_servers=2)
        specs = [
            dataclasses.replace(third_party.spec, headers={"x-user": str(n)}) for n in range(4)
        ]
        first, second = [await servers.connect(spec) for spec in specs[:2]]
        call = asyncio.create_task(
            by_name(first.tools)["wait"].call({"name": "busy1", "seconds": 60}, CONTEXT)
        )
        await wait_until((third_party.folder / "busy1.started").exists)
        third = await servers.connect(specs[2])  # in the place of the second
        assert len(servers) == 2
        other = asyncio.create_task(
            by_name(third.tools)["wait"].call({"name": "busy2", "seconds": 60}, CONTEXT)
        )
        await wait_until((third_party.folder / "busy2.started").exists)
        with pytest.raises(McpUnavailable, match="please retry later"):
            await servers.connect(specs[3])
        assert not call.done()
        await servers.close()
        await asyncio.gather(call, other, return_exceptions=True)
        assert second.tools  # still known

    asyncio.run(run())


def test_a_request_cannot_reach_what_the_rules_forbid_nor_start_commands(
    third_party: ThirdParty, tmp_path: object
) -> None:
    async def run() -> None:
        servers = RequestServers(AddressRules())
        with pytest.raises(ForbiddenAddress):
            await servers.connect(third_party.spec)
        with pytest.raises(InvalidRequest, match="URL only"):
            await servers.connect(stdio_spec(third_party.folder))
        await servers.close()

    asyncio.run(run())


def test_a_server_that_is_down_is_named_and_tried_again_by_the_next_request() -> None:
    async def run() -> None:
        servers = RequestServers(RULES)
        spec = McpServerSpec("mine", "streamable_http", url=f"http://127.0.0.1:{free_port()}/mcp")
        for _ in range(2):
            with pytest.raises(McpUnavailable, match=r"127\.0\.0\.1:\d+/mcp cannot be reached"):
                await servers.connect(spec)
        assert len(servers) == 0
        await servers.close()

    asyncio.run(run())
