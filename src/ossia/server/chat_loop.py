"""Chat Completions with tools that the server runs: the loop's events as deltas of one message.

The client sees reasoning, text and the calls of its own functions, of all turns together. Calls
that the server ran are not shown, since the format has no place for them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    MessageOpened,
    ReasoningText,
    VisibleText,
)
from ossia.answer.finish import FinishDetails, TurnFinish
from ossia.errors import InvalidRequest
from ossia.server.responses.tools import HOSTED, RequestTools, request_tools
from ossia.server.schema.chat import PromptOptions
from ossia.server.schema.tools import ToolSpec
from ossia.server.server_tools import ServerTools
from ossia.server.tool_loop import LoopEvent, ToolLoop
from ossia.server.toolset import Toolset
from ossia.server.usage import Usage

_BETWEEN_MESSAGES = "\n\n"


def asks_for_server_tools(options: PromptOptions) -> bool:
    """Whether the request names a tool that the server is to run."""
    return any(tool.type == "mcp" or tool.type in HOSTED for tool in options.tools or ())


async def chat_tools(options: PromptOptions, server: ServerTools) -> RequestTools:
    """The tools of such a request.

    Raises:
        InvalidRequest: one of them cannot be had, or wants an approval that nobody could give.
    """
    for index, tool in enumerate(options.tools or ()):
        if tool.type not in ("function", "mcp") and not server.builtin(HOSTED.get(tool.type, "")):
            raise InvalidRequest(
                f"tools[{index}] is of type {tool.type[:80]!r}, which this server does not run; "
                "leave it out, or declare a function.",
                param=f"tools[{index}].type",
            )
    specs = [_flat(tool) for tool in options.tools or ()]
    choice = options.tool_choice
    as_object = choice if choice is None or isinstance(choice, str) else _choice(choice)
    tools = await request_tools(specs, as_object, server)
    for listing in tools.listings:
        if listing.error is not None:
            raise InvalidRequest(listing.error, param="tools", code="mcp_server_unavailable")
    if any(offer.needs_approval for offer in tools.toolset.offers.values()):
        raise InvalidRequest(
            "Chat Completions cannot ask for approvals; send require_approval: never with the "
            "mcp tool, or use the Responses API.",
            param="tools",
        )
    return tools


def _flat(tool: ToolSpec) -> dict[str, Any]:
    """A tool as the Responses API spells it."""
    given = tool.model_dump(exclude_none=True)
    return {**given.pop("function", {}), **given}


def _choice(choice: Any) -> Mapping[str, Any]:
    given: dict[str, Any] = choice.model_dump(exclude_none=True)
    return {**given.pop("function", {}), **given.pop("allowed_tools", {}), **given}


@dataclass(slots=True)
class _Ending:
    """What is known of the end, in the words of `TurnAssembler`."""

    finish_reason: TurnFinish | None = None
    finish_details: FinishDetails | None = None


@dataclass(slots=True)
class LoopChoice:
    """The one choice."""

    index: int
    assembler: _Ending


class LoopGeneration:
    """A loop in the form of a `Generation` with one choice."""

    def __init__(self, loop: ToolLoop, toolset: Toolset) -> None:
        """`loop` has been started."""
        self.choices = [LoopChoice(0, _Ending())]
        self._loop = loop
        self._toolset = toolset

    @property
    def usage(self) -> Usage:
        """What was spent so far, all turns together."""
        return self._loop.usage

    async def run(self) -> AsyncGenerator[tuple[LoopChoice, list[Delta]], None]:
        """Deltas as they come; the last item brings the finish reason.

        Raises:
            RequestError: the engine failed.
        """
        [choice] = self.choices
        joined = _Joined(self._toolset)
        running = self._loop.run()
        try:
            async for event in running:
                if deltas := joined.read(event):
                    yield choice, deltas
        finally:
            await running.aclose()
            await self._loop.stop()
        choice.assembler.finish_reason = self._loop.finish_reason
        choice.assembler.finish_details = self._loop.finish_details
        yield choice, []


class _Joined:
    """Messages of one kind become one text; calls of the server's tools are left out."""

    def __init__(self, toolset: Toolset) -> None:
        self._toolset = toolset
        self._calls = 0  # of the client
        self._is_shown = False  # the call that began last
        self._said: set[str] = set()

    def read(self, event: LoopEvent) -> list[Delta]:
        match event:
            case MessageOpened(kind):
                return self._separator("reasoning" if kind == "reasoning" else "visible")
            case ReasoningText() | VisibleText():
                return [event]
            case CallStart(_, call_id, name):
                self._is_shown = self._toolset.offers[name].kind != "server"
                if self._is_shown:
                    self._calls += 1
                    return [CallStart(self._calls - 1, call_id, name)]
            case CallArguments(_, text) if self._is_shown:
                return [CallArguments(self._calls - 1, text)]
        return []

    def _separator(self, kind: str) -> list[Delta]:
        if kind not in self._said:
            self._said.add(kind)
            return []
        as_text = ReasoningText if kind == "reasoning" else VisibleText
        return [as_text(_BETWEEN_MESSAGES)]
