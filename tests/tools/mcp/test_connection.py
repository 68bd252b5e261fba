"""Tools of a server that somebody else wrote, used as ours."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.tools.addresses import AddressRules, ForbiddenAddress
from ossia.tools.mcp import channel
from ossia.tools.mcp.channel import Channel
from ossia.tools.mcp.connection import McpConnection
from ossia.tools.mcp.remote import RemoteTool
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable
from ossia.tools.tool import CallContext, ToolError

from .conftest import (
    CONTEXT,
    RULES,
    ThirdParty,
    by_name,
    free_port,
    kill,
    process_is_gone,
    stdio_spec,
    wait_until,
)

# Reads what it is told, and says nothing.
SILENT = McpServerSpec("slow", "stdio", command="sh", args=("-c", "while read line; do :; done"))


def test_a_tool_is_listed_and_called_as_one_of_ours(third_party: ThirdParty) -> None:
    async def run() -> None:
        connection = await McpConnection.open(third_party.spec, RULES)
        add = by_name(await connection.list_tools())["add"]
        assert (add.server_label, add.description) == ("third", "Add two numbers.")
        assert add.parameters["required"] == ["a", "b"]
        output = await add.call({"a": 2, "b": 40}, CONTEXT)
        assert (output.text, output.is_error) == ("42", False)
        await connection.close()

    asyncio.run(run())


def test_what_a_tool_answers_is_put_into_words(third_party: ThirdParty) -> None:
    async def run() -> None:
        connection = await McpConnection.open(third_party.spec, RULES)
        tools = by_name(connection.tools)
        figures = await tools["figures"].call({}, CONTEXT)
        picture = await tools["picture"].call({}, CONTEXT)
        failure = await tools["fail"].call({}, CONTEXT)
        await connection.close()
        assert '"answer": 42' in figures.text
        assert figures.details["structured_content"] == {"answer": 42}
        assert picture.text == "A dot:\n[an image, image/png, that cannot be shown here]"
        assert picture.details["content"][1]["mimeType"] == "image/png"
        assert failure.is_error
        assert "the disk is full" in failure.text

    asyncio.run(run())


def test_progress_reaches_whoever_listens(third_party: ThirdParty) -> None:
    async def run() -> list[str]:
        heard: list[str] = []
        connection = await McpConnection.open(third_party.spec, RULES)
        await by_name(connection.tools)["count"].call({}, CallContext("test", heard.append))
        await connection.close()
        return heard

    assert asyncio.run(run()) == ["1/3", "nearly there", "3/3"]


def test_only_allowed_tools_are_offered_and_some_ask_first(third_party: ThirdParty) -> None:
    async def run() -> dict[str, bool]:
        spec = dataclasses.replace(
            third_party.spec,
            allowed_tools=("add", "pid"),
            require_approval=frozenset({"pid"}),
        )
        connection = await McpConnection.open(spec, RULES)
        await connection.close()
        return {tool.name: tool.needs_approval for tool in connection.tools}

    assert asyncio.run(run()) == {"add": False, "pid": True}


def test_tools_that_no_model_can_be_offered_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    spec = McpServerSpec("theirs", "streamable_http", url="https://example.org/mcp")
    theirs = Channel(spec, RULES)
    theirs.tools = (
        RemoteTool("fine", "", {"properties": {}}, repeatable=False),
        RemoteTool("broken", "", {"type": "object", "properties": 7}, repeatable=False),
        RemoteTool("my tool/é", "", {"type": "object"}, repeatable=False),
    )
    connection = McpConnection(spec, theirs)
    assert [tool.name for tool in connection.tools] == ["fine", "my_tool__"]
    assert connection.tools[0].parameters["type"] == "object"
    assert len(caplog.records) == 1
    assert "The tool 'broken' of the MCP server 'theirs' is left out" in caplog.text


def test_a_hundred_calls_run_at_once(third_party: ThirdParty) -> None:
    async def run() -> list[str]:
        connection = await McpConnection.open(third_party.spec, RULES)
        add = by_name(connection.tools)["add"]
        outputs = await asyncio.gather(*(add.call({"a": n, "b": 1}, CONTEXT) for n in range(100)))
        await connection.close()
        return [output.text for output in outputs]

    assert asyncio.run(run()) == [str(n + 1) for n in range(100)]


def test_a_cancelled_call_is_cancelled_there_and_disturbs_no_other(
    either_party: ThirdParty,
) -> None:
    cancel_one_of_many(either_party.spec, either_party.folder)


@pytest.mark.parametrize("transport", ["sse", "stdio"])
def test_a_cancelled_call_disturbs_no_other_on_one_stream_for_all(
    transport: str, make_third_party: Callable[..., ThirdParty], tmp_path: Path
) -> None:
    spec = stdio_spec(tmp_path) if transport == "stdio" else make_third_party("sse").spec
    cancel_one_of_many(spec, tmp_path)


def cancel_one_of_many(spec: McpServerSpec, folder: Path) -> None:
    async def run() -> None:
        connection = await McpConnection.open(spec, RULES)
        tools = by_name(connection.tools)
        others = [
            asyncio.create_task(tools["wait_for_file"].call({"name": "go"}, CONTEXT))
            for _ in range(5)
        ]
        call = asyncio.create_task(tools["wait"].call({"name": "one", "seconds": 60}, CONTEXT))
        await wait_until((folder / "one.started").exists)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await wait_until((folder / "one.cancelled").exists)
        (folder / "go").touch()
        assert [output.text for output in await asyncio.gather(*others)] == ["found"] * 5
        await connection.close()

    asyncio.run(run())


def test_closing_leaves_nothing_behind(third_party: ThirdParty) -> None:
    async def run() -> None:
        for n in range(3):
            connection = await McpConnection.open(third_party.spec, RULES)
            call = asyncio.create_task(
                by_name(connection.tools)["wait"].call({"name": f"left{n}", "seconds": 60}, CONTEXT)
            )
            await wait_until((third_party.folder / f"left{n}.started").exists)
            await connection.close()
            with pytest.raises(ToolError, match="ended the connection"):
                await call
            with pytest.raises(McpUnavailable, match="was closed"):
                await connection.list_tools()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


def test_a_tool_that_takes_too_long_is_cancelled_and_says_so(third_party: ThirdParty) -> None:
    async def run() -> None:
        spec = dataclasses.replace(third_party.spec, timeout=1.0)
        connection = await McpConnection.open(spec, RULES)
        tools = by_name(connection.tools)
        with pytest.raises(ToolError, match=r"'wait' .* did not answer within 1 seconds\.$"):
            await tools["wait"].call({"name": "slow", "seconds": 60}, CONTEXT)
        await wait_until((third_party.folder / "slow.cancelled").exists)
        assert (await tools["add"].call({"a": 1, "b": 1}, CONTEXT)).text == "2"
        await connection.close()

    asyncio.run(run())


def test_a_changed_list_of_tools_is_read_again(either_party: ThirdParty) -> None:
    async def run() -> None:
        connection = await McpConnection.open(either_party.spec, RULES)
        assert "new_tool" not in by_name(connection.tools)
        await by_name(connection.tools)["grow"].call({}, CONTEXT)
        await wait_until(lambda: "new_tool" in by_name(connection.tools))
        assert (await by_name(connection.tools)["new_tool"].call({}, CONTEXT)).text == "new"
        await connection.close()

    asyncio.run(run())


def test_what_a_server_asks_of_its_client_is_declined(legacy_party: ThirdParty) -> None:
    async def run() -> str:
        connection = await McpConnection.open(legacy_party.spec, RULES)
        output = await by_name(connection.tools)["ask_back"].call({}, CONTEXT)
        await connection.close()
        return output.text

    answers = asyncio.run(run()).split(", ")
    assert len(answers) == 3
    assert all(answer.startswith("declined -32") for answer in answers)


def test_a_crashed_process_is_started_again_by_the_next_call(tmp_path: Path) -> None:
    async def run() -> None:
        connection = await McpConnection.open(stdio_spec(tmp_path), RULES)
        tools = by_name(connection.tools)
        first = int((await tools["pid"].call({}, CONTEXT)).text)
        call = asyncio.create_task(tools["wait"].call({"name": "x", "seconds": 60}, CONTEXT))
        await wait_until((tmp_path / "x.started").exists)
        kill(first)
        with pytest.raises(ToolError, match="may or may not have done"):
            await call
        second = int((await tools["pid"].call({}, CONTEXT)).text)
        assert second != first
        await connection.close()
        await wait_until(lambda: process_is_gone(second))

    asyncio.run(run())


@pytest.mark.parametrize("arguments", [(), ("--legacy",)], ids=["modern", "legacy"])
def test_a_server_that_is_restarted_is_found_again(
    arguments: tuple[str, ...],
    make_third_party: Callable[..., ThirdParty],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel, "_BACKOFF_SECONDS", 0.05)
    server = make_third_party("streamable-http", *arguments)

    async def run() -> None:
        connection = await McpConnection.open(server.spec, RULES)
        tools = by_name(connection.tools)
        lost = asyncio.create_task(tools["wait"].call({"name": "lost", "seconds": 60}, CONTEXT))
        repeated = asyncio.create_task(tools["wait_first_time"].call({"name": "again"}, CONTEXT))
        await wait_until((tmp_path / "lost.started").exists)
        await wait_until((tmp_path / "again.started").exists)
        server.kill()
        with pytest.raises(ToolError, match="may or may not have done"):
            await lost
        with pytest.raises(ToolError, match=r"^The MCP server 'third' "):
            await tools["pid"].call({}, CONTEXT)  # may still find a connection half open
        with pytest.raises(ToolError, match=r"^The MCP server 'third' .*cannot be reached\.$"):
            await tools["pid"].call({}, CONTEXT)
        await asyncio.to_thread(server.start)
        outputs = await asyncio.gather(
            *(tools["add"].call({"a": n, "b": 0}, CONTEXT) for n in range(10))
        )
        assert [output.text for output in outputs] == [str(n) for n in range(10)]
        await asyncio.gather(repeated, return_exceptions=True)
        await connection.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        (
            McpServerSpec("gone", "streamable_http", url=f"http://127.0.0.1:{free_port()}/mcp"),
            r"^The MCP server 'gone' at http://127\.0\.0\.1:\d+/mcp cannot be reached\.$",
        ),
        (
            McpServerSpec("old", "sse", url=f"http://127.0.0.1:{free_port()}/sse"),
            r"^The MCP server 'old' at http://127\.0\.0\.1:\d+/sse cannot be reached\.$",
        ),
        (
            McpServerSpec("typo", "stdio", command="no-such-command"),
            r"^The MCP server 'typo' at no-such-command cannot be started \(No such file or "
            r"directory\)\.$",
        ),
        (
            McpServerSpec("mute", "stdio", command="true"),
            r"^The MCP server 'mute' at true ended the connection before it answered\.$",
        ),
        (
            dataclasses.replace(SILENT, connect_timeout=0.5),
            r"^The MCP server 'slow' at sh did not answer within 0\.5 seconds\.$",
        ),
    ],
    ids=lambda value: value.label if isinstance(value, McpServerSpec) else "",
)
def test_a_server_that_cannot_be_had_is_named(spec: McpServerSpec, sentence: str) -> None:
    async def run() -> None:
        with pytest.raises(McpUnavailable, match=sentence):
            await McpConnection.open(spec, RULES)

    asyncio.run(run())


def test_a_path_that_is_no_mcp_server_says_what_it_answered(third_party: ThirdParty) -> None:
    async def run() -> None:
        spec = dataclasses.replace(third_party.spec, url=third_party.spec.url + "/nothing")
        with pytest.raises(McpUnavailable, match=r"answered with HTTP status 404 \(Not Found\)\.$"):
            await McpConnection.open(spec, RULES)

    asyncio.run(run())


def test_an_address_that_is_not_allowed_is_never_contacted(third_party: ThirdParty) -> None:
    async def run() -> None:
        with pytest.raises(ForbiddenAddress):
            await McpConnection.open(third_party.spec, AddressRules())

    asyncio.run(run())


def test_opening_is_given_up_when_its_request_is(tmp_path: Path) -> None:
    async def run() -> None:
        begun = time.monotonic()
        opening = asyncio.create_task(McpConnection.open(SILENT, RULES))
        await asyncio.sleep(0.2)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert time.monotonic() - begun < 30

    asyncio.run(run())
