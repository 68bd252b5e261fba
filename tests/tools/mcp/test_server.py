"""Our tools used by other clients: over a real socket and over pipes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import pytest
from mcp import Client
from mcp.shared.exceptions import MCPError

from ossia import __version__
from ossia.tools.mcp.app import mcp_app
from ossia.tools.mcp.connection import McpConnection
from ossia.tools.mcp.spec import McpServerSpec
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

from .conftest import CONTEXT, RULES, by_name, on_a_socket, wait_until

COMMAND = """
import sys
from ossia.cli import mcp
from ossia.cli.parser import Parser
parser = Parser(prog="ossia mcp")
mcp.add_arguments(parser)
status = mcp.run(parser.parse_args())
print("torch" in sys.modules, file=sys.stderr)
sys.exit(status)
"""
OURS = McpServerSpec("ours", "stdio", command=sys.executable, args=("-c", COMMAND))


class Sleeper(Tool):
    """Tells its progress, sleeps, and remembers what befell it."""

    name = "sleep"
    description = "Sleep."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"seconds": {"type": "number"}},
        "required": ["seconds"],
    }

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.sessions: set[str] = set()

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        self.started += 1
        self.sessions.add(context.session)
        context.progress("falling asleep")
        context.progress("asleep")
        try:
            await asyncio.sleep(arguments["seconds"])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return ToolOutput("slept well")


class Broken(Tool):
    name = "broken"
    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        raise ToolError("The disk is full.")


def with_server(use: Callable[[str, Sleeper], Awaitable[None]], **options: Any) -> None:
    """Run `use` with the URL of a server of two tools."""

    async def run() -> None:
        sleeper = Sleeper()
        async with on_a_socket(mcp_app(lambda: [sleeper, Broken()], **options)) as url:
            await use(url, sleeper)

    asyncio.run(run())


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_of_both_protocols_list_and_call(mode: str) -> None:
    async def use(url: str, _: Sleeper) -> None:
        heard: list[str | None] = []

        async def progress(done: float, total: float | None, message: str | None) -> None:
            heard.append(message)

        async with Client(url, mode=mode) as client:
            assert client.server_info is not None
            assert (client.server_info.name, client.server_info.version) == ("ossia", __version__)
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["sleep", "broken"]
            assert tools[0].description == "Sleep."
            assert tools[0].input_schema == Sleeper.parameters
            result = await client.call_tool("sleep", {"seconds": 0}, progress_callback=progress)
            assert result.content[0].text == "slept well"  # type: ignore[union-attr]
            assert not result.is_error
            assert heard == ["falling asleep", "asleep"]

    with_server(use)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_failures_are_told_to_the_model_and_unknown_tools_to_the_client(mode: str) -> None:
    async def use(url: str, _: Sleeper) -> None:
        async with Client(url, mode=mode) as client:
            failed = await client.call_tool("broken", {})
            assert (failed.is_error, failed.content[0].text) == (  # type: ignore[union-attr]
                True,
                "The disk is full.",
            )
            wrong = await client.call_tool("sleep", {"seconds": "long"})
            assert wrong.is_error
            with pytest.raises(MCPError, match="There is no tool 'fly'"):
                await client.call_tool("fly", {})

    with_server(use)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_cancellation_reaches_the_tool(mode: str) -> None:
    async def use(url: str, sleeper: Sleeper) -> None:
        async with Client(url, mode=mode) as client:
            call = asyncio.create_task(client.call_tool("sleep", {"seconds": 60}))
            await wait_until(lambda: sleeper.started == 1)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            await wait_until(lambda: sleeper.cancelled == 1)

    with_server(use)


def test_our_client_makes_a_hundred_calls_at_once_to_our_server() -> None:
    async def use(url: str, sleeper: Sleeper) -> None:
        connection = await McpConnection.open(
            McpServerSpec("ours", "streamable_http", url=url), RULES
        )
        sleep = by_name(connection.tools)["sleep"]
        outputs = await asyncio.gather(*(sleep.call({"seconds": 0.1}, CONTEXT) for _ in range(100)))
        assert {output.text for output in outputs} == {"slept well"}
        assert sleeper.started == 100
        await connection.close()

    with_server(use)


def test_each_client_has_a_session_of_its_own() -> None:
    async def use(url: str, sleeper: Sleeper) -> None:
        for _ in range(2):
            async with Client(url, mode="legacy") as client:
                await client.call_tool("sleep", {"seconds": 0})
                await client.call_tool("sleep", {"seconds": 0})
        assert len(sleeper.sessions) == 2

    with_server(use)


def test_stopping_ends_open_streams_and_running_calls() -> None:
    async def run() -> None:
        sleeper = Sleeper()
        async with on_a_socket(mcp_app(lambda: [sleeper])) as url:
            client = Client(url, mode="legacy")
            await client.__aenter__()
            call = asyncio.create_task(client.call_tool("sleep", {"seconds": 600}))
            await wait_until(lambda: sleeper.started == 1)
        assert sleeper.cancelled == 1
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], MCPError)
        await client.__aexit__(None, None, None)

    begun = time.monotonic()
    asyncio.run(run())
    assert time.monotonic() - begun < 30


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def test_pages_of_strangers_cannot_speak_to_the_server() -> None:
    async def use(url: str, _: Sleeper) -> None:
        accept = {"accept": "application/json, text/event-stream"}
        async with httpx.AsyncClient(trust_env=False) as client:
            for headers, status in (
                ({}, 200),
                ({"host": "models.example.org"}, 200),
                ({"host": "evil.example.com"}, 421),
                ({"origin": "http://localhost:6274"}, 200),
                ({"origin": "https://evil.example.com"}, 403),
            ):
                response = await client.post(url, json=INITIALIZE, headers={**accept, **headers})
                assert response.status_code == status, headers

    with_server(use, allowed_hosts=["models.example.org"])


def test_the_command_offers_the_demo_tools_over_pipes() -> None:
    async def run() -> None:
        connection = await McpConnection.open(OURS, RULES)
        tools = by_name(await connection.list_tools())
        assert sorted(tools) == ["calculator", "echo", "time"]
        outputs = await asyncio.gather(
            *(tools["calculator"].call({"expression": f"{n}*7"}, CONTEXT) for n in range(20))
        )
        assert [output.text for output in outputs] == [str(7 * n) for n in range(20)]
        await connection.close()

    asyncio.run(run())


def test_the_command_ends_with_its_input_and_never_loads_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "--tool", "echo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "False\n")


def test_the_command_ends_by_ctrl_c_although_its_input_is_open() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
        process.stdin.flush()
        assert b"ossia" in process.stdout.readline()  # it serves
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()
