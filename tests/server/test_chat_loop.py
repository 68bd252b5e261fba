"""Chat Completions with tools that the server runs: what of the loop its client is shown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    MessageClosed,
    MessageOpened,
    ReasoningText,
    VisibleText,
)
from ossia.errors import InvalidRequest
from ossia.server.chat_loop import LoopGeneration, asks_for_server_tools, chat_tools
from ossia.server.schema.chat import PromptOptions
from ossia.server.server_tools import ServerTools
from ossia.server.tool_loop import CallDone, CallProgress
from ossia.server.toolset import Offer, Toolset, server_offer
from ossia.tools.echo import Echo
from ossia.tools.options import ToolOptions
from ossia.tools.registry import load_tools
from ossia.tools.tool import ToolOutput
from ossia.turn import ToolDefinition

TOOLSET = Toolset({"echo": server_offer(Echo()), "mine": Offer(ToolDefinition("mine"))})
DEMO = ServerTools(load_tools(["demo"], ToolOptions()))
CLOSED = MessageClosed(True)
EVENTS = [
    *(MessageOpened("reasoning"), ReasoningText("Use it."), CLOSED),
    *(CallStart(0, "c1", "echo"), CallArguments(0, "{}"), CLOSED),
    *(CallProgress("c1", "..."), CallDone("c1", ToolOutput("said"))),
    *(MessageOpened("reasoning"), ReasoningText("Now mine."), CLOSED),
    *(MessageOpened("preamble"), VisibleText("One moment."), CLOSED),
    *(CallStart(0, "c2", "echo"), CallArguments(0, "{}"), CLOSED),
    *(CallStart(1, "c3", "mine"), CallArguments(1, '{"a":1}'), CLOSED),
]


class Loop(SimpleNamespace):
    async def run(self) -> AsyncGenerator[Any, None]:
        for event in EVENTS:
            yield event

    async def stop(self) -> None:
        self.stopped = True


def test_turns_become_one_message_without_the_calls_of_the_server() -> None:
    loop = Loop(finish_reason="tool_calls", finish_details=None, stopped=False)
    generation = LoopGeneration(loop, TOOLSET)  # type: ignore[arg-type]

    async def run() -> list[tuple[list[Delta], str | None]]:
        return [(deltas, c.assembler.finish_reason) async for c, deltas in generation.run()]

    seen = asyncio.run(run())
    assert [delta for deltas, _ in seen for delta in deltas] == [
        *(ReasoningText("Use it."), ReasoningText("\n\n"), ReasoningText("Now mine.")),
        VisibleText("One moment."),
        *(CallStart(0, "c3", "mine"), CallArguments(0, '{"a":1}')),
    ]
    assert [reason for _, reason in seen[:-1]] == [None] * (len(seen) - 1)
    assert seen[-1] == ([], "tool_calls")
    assert loop.stopped


def options(*tools: dict[str, Any], **fields: Any) -> PromptOptions:
    return PromptOptions.model_validate({"tools": list(tools), **fields})


FUNCTION = {"type": "function", "function": {"name": "mine"}}
MCP = {"type": "mcp", "server_label": "demo"}


def test_a_request_has_to_ask_for_tools_of_the_server() -> None:
    assert not asks_for_server_tools(options(FUNCTION))
    assert asks_for_server_tools(options(FUNCTION, MCP))
    assert asks_for_server_tools(options({"type": "web_search"}))


def test_functions_stand_beside_the_tools_of_the_server() -> None:
    choice = {"type": "function", "function": {"name": "mine"}}
    found = asyncio.run(chat_tools(options(FUNCTION, MCP, tool_choice=choice), DEMO)).toolset
    assert sorted(found.offers) == ["calculator", "echo", "mine", "time"]
    assert (found.choice.mode, found.choice.names) == ("required", ("mine",))


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        ({**MCP, "require_approval": "always"}, "cannot ask for approvals"),
        ({"type": "web_search"}, "does not run"),
        ({"type": "mcp", "server_label": "other"}, "no tool server called 'other'"),
    ],
)
def test_what_cannot_work_there_is_refused(tool: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        asyncio.run(chat_tools(options(tool), DEMO))
