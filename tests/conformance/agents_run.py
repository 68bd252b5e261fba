"""The Agents SDK of OpenAI (package openai-agents) against a running server.

    python tests/conformance/agents_run.py http://127.0.0.1:8000 demo

Prints one JSON line for each check and exits 1 when one failed. The checks with `mcp` in their name
need a server that offers its own tools over MCP and may contact itself as an MCP server. Names of
checks after the model's name choose those that contain one of them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from agents import (
    Agent,
    HostedMCPTool,
    MCPToolApprovalFunctionResult,
    MCPToolApprovalRequest,
    ModelSettings,
    OpenAIResponsesModel,
    RawResponsesStreamEvent,
    Runner,
    RunResult,
    RunResultStreaming,
    SQLiteSession,
    ToolCallItem,
    function_tool,
    set_tracing_disabled,
)
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

Got = dict[str, Any]  # what a client got, for the report
Check = Callable[["Server"], Awaitable[Got]]

SECONDS = 120  # for one check, on a busy machine
SUM = "What is 4711 + 12?"
CALL_FIRST = ModelSettings(tool_choice="required")  # only for the first answer of a run
LABEL = "ossia"


class Server:
    """The server that is tested, and the model that it serves."""

    def __init__(self, base_url: str, model: str) -> None:
        self.mcp_url = f"{base_url}/mcp"
        self._client = AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0)
        self._model = model

    def agent(self, **details: Any) -> Agent[None]:
        model = OpenAIResponsesModel(model=self._model, openai_client=self._client)
        return Agent(name="Assistant", model=model, **details)

    def hosted_mcp(self, approval: Literal["always", "never"], **details: Any) -> HostedMCPTool:
        return HostedMCPTool(
            tool_config={
                "type": "mcp",
                "server_label": LABEL,
                "server_url": self.mcp_url,
                "require_approval": approval,
                "allowed_tools": ["calculator"],
            },
            **details,
        )


class Person(BaseModel):
    """What is filled in from a text."""

    name: str
    age: int


@function_tool
def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression.

    Args:
        expression: The expression, such as 2 + 3 * 4.
    """
    left, right = expression.split("+")
    return str(int(left) + int(right))


def first_call(result: RunResult | RunResultStreaming) -> Any:
    """The first call of a run, as the model made it."""
    return next(item.raw_item for item in result.new_items if isinstance(item, ToolCallItem))


def called(result: RunResult | RunResultStreaming) -> list[str]:
    """Types of the items of a run, in their order."""
    return [item.type for item in result.new_items]


def raw_types(result: RunResult | RunResultStreaming) -> list[str]:
    """Types of the output items of all responses of a run."""
    return [item.type for response in result.raw_responses for item in response.output]


def expect_call_and_answer(result: RunResult | RunResultStreaming) -> Got:
    kinds = called(result)
    order = ["tool_call_item", "tool_call_output_item", "message_output_item"]
    assert [kind for kind in kinds if kind in order] == order, kinds
    assert "reasoning_item" in kinds, kinds
    assert json.loads(first_call(result).arguments)
    assert all(response.usage.total_tokens > 0 for response in result.raw_responses)
    assert result.final_output
    return {"items": kinds, "answer": result.final_output}


async def streamed(run: RunResultStreaming) -> list[Any]:
    """The events of the model in a run; every delta must belong to an item that was announced."""
    events: list[Any] = []
    async for event in run.stream_events():
        if isinstance(event, RawResponsesStreamEvent):
            events.append(event.data)
    indexes: dict[int, str] = {}
    for event in events:
        if event.type == "response.created":
            indexes = {}
        elif event.type == "response.output_item.added":
            assert event.output_index == len(indexes), event
            indexes[event.output_index] = event.item.id
        elif item_id := getattr(event, "item_id", None):
            assert indexes[event.output_index] == item_id, event
    return events


async def text_alone(server: Server) -> Got:
    agent = server.agent(instructions="Be short.")
    result = await Runner.run(agent, "Hello")
    assert called(result) == ["reasoning_item", "message_output_item"], called(result)
    return {"answer": result.final_output}


async def text_alone_streamed(server: Server) -> Got:
    run = Runner.run_streamed(server.agent(), "Hello")
    events = await streamed(run)
    deltas = [e.delta for e in events if e.type == "response.output_text.delta"]
    assert "".join(deltas) == run.final_output
    thoughts = [e.delta for e in events if e.type == "response.reasoning_text.delta"]
    assert "".join(thoughts)
    return {"answer": run.final_output, "kinds": sorted({e.type for e in events})}


async def function_tool_called(server: Server) -> Got:
    agent = server.agent(tools=[calculator], model_settings=CALL_FIRST)
    return expect_call_and_answer(await Runner.run(agent, SUM))


async def function_tool_called_streamed(server: Server) -> Got:
    agent = server.agent(tools=[calculator], model_settings=CALL_FIRST)
    run = Runner.run_streamed(agent, SUM)
    events = await streamed(run)
    kind = "response.function_call_arguments.delta"
    deltas = "".join(e.delta for e in events if e.type == kind)
    assert deltas == first_call(run).arguments
    return expect_call_and_answer(run)


async def function_tool_with_nothing_stored(server: Server) -> Got:
    settings = ModelSettings(
        tool_choice="required",
        store=False,
        response_include=["reasoning.encrypted_content"],
        reasoning=Reasoning(effort="high"),
        parallel_tool_calls=False,
    )
    agent = server.agent(tools=[calculator], model_settings=settings)
    return expect_call_and_answer(await Runner.run(agent, SUM))


async def function_tool_with_stored_responses(server: Server) -> Got:
    agent = server.agent(tools=[calculator], model_settings=CALL_FIRST)
    result = await Runner.run(agent, SUM, auto_previous_response_id=True)
    assert result.last_response_id
    return expect_call_and_answer(result)


async def structured_output(server: Server) -> Got:
    agent = server.agent(output_type=Person)
    result = await Runner.run(agent, "Anna is 30 years old. Fill in the name and the age.")
    assert isinstance(result.final_output, Person)
    return {"answer": result.final_output.model_dump()}


async def conversation_in_a_session(server: Server) -> Got:
    session = SQLiteSession("conformance")
    agent = server.agent(tools=[calculator], model_settings=CALL_FIRST)
    first = await Runner.run(agent, SUM, session=session)
    second = await Runner.run(server.agent(), "Thanks", session=session)
    assert second.final_output
    return {"answers": [first.final_output, second.final_output]}


async def handoff(server: Server) -> Got:
    helper = server.agent(handoff_description="Answers greetings.")
    helper.name = "Helper"
    result = await Runner.run(server.agent(handoffs=[helper], model_settings=CALL_FIRST), "Hello")
    assert result.last_agent.name == "Helper", called(result)
    return {"items": called(result), "answer": result.final_output}


async def mcp_tools_called_by_the_client(server: Server) -> Got:
    async with MCPServerStreamableHttp(
        params={"url": server.mcp_url}, client_session_timeout_seconds=SECONDS
    ) as tools:
        names = {tool.name for tool in await tools.list_tools()}
        assert {"calculator", "echo", "time"} <= names, names
        agent = server.agent(mcp_servers=[tools], model_settings=CALL_FIRST)
        return expect_call_and_answer(await Runner.run(agent, SUM)) | {"tools": sorted(names)}


async def hosted_mcp(server: Server) -> Got:
    result = await Runner.run(server.agent(tools=[server.hosted_mcp("never")]), SUM)
    return expect_hosted_call(result)


async def hosted_mcp_streamed(server: Server) -> Got:
    run = Runner.run_streamed(server.agent(tools=[server.hosted_mcp("never")]), SUM)
    kinds = {event.type for event in await streamed(run)}
    assert {"response.mcp_list_tools.completed", "response.mcp_call.completed"} <= kinds, kinds
    return expect_hosted_call(run) | {"kinds": sorted(kinds)}


async def hosted_mcp_with_approval(server: Server) -> Got:
    asked: list[str] = []

    def approve(request: MCPToolApprovalRequest) -> MCPToolApprovalFunctionResult:
        asked.append(request.data.name)
        return {"approve": True}

    tool = server.hosted_mcp("always", on_approval_request=approve)
    result = await Runner.run(server.agent(tools=[tool]), SUM)
    assert asked == ["calculator"], asked
    return expect_hosted_call(result)


def expect_hosted_call(result: RunResult | RunResultStreaming) -> Got:
    kinds = raw_types(result)
    assert {"mcp_list_tools", "mcp_call"} <= set(kinds), kinds
    assert kinds[-1] == "message", kinds
    items: list[Any] = [item for response in result.raw_responses for item in response.output]
    call = next(item for item in items if item.type == "mcp_call")
    assert (call.server_label, call.error) == (LABEL, None), call
    assert call.output, call
    return {"items": kinds, "output": call.output, "answer": result.final_output}


CHECKS: tuple[Check, ...] = (
    text_alone,
    text_alone_streamed,
    function_tool_called,
    function_tool_called_streamed,
    function_tool_with_nothing_stored,
    function_tool_with_stored_responses,
    structured_output,
    conversation_in_a_session,
    handoff,
    mcp_tools_called_by_the_client,
    hosted_mcp,
    hosted_mcp_streamed,
    hosted_mcp_with_approval,
)


async def main(base_url: str, model: str, *wanted: str) -> int:
    """Runs the checks one after the other; returns how many failed."""
    server = Server(base_url.rstrip("/"), model)
    chosen = [c for c in CHECKS if not wanted or any(w in c.__name__ for w in wanted)]
    failed = 0
    for check in chosen:
        report: dict[str, Any] = {"check": check.__name__, "passed": True}
        try:
            async with asyncio.timeout(SECONDS):
                report["got"] = await check(server)
        except Exception as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)[-1]
            report |= {"passed": False, "error": repr(error)[:900], "where": str(where)}
        print(json.dumps(report), flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("Give the server and the model: agents_run.py http://127.0.0.1:8000 demo")
    set_tracing_disabled(True)
    sys.exit(1 if asyncio.run(main(*sys.argv[1:])) else 0)
