"""Our tools as an MCP server, whatever it is reached by."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from mcp.server import Server, ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)
from mcp_types import Tool as ListedTool
from pydantic import TypeAdapter

from ossia import __version__
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext, Tool, ToolOutput

Tools = Callable[[], Sequence[Tool]]
_SESSION_HEADER = "mcp-session-id"


def make_server(tools: Tools, *, session: str | None = None) -> Server[Any]:
    """A server that offers what `tools` gives at each request, under our name and version.

    `session`: whose calls they all are, where there is one client only. Otherwise calls belong to
    the session of their client, or to none: the protocol has no sessions from 2026-07-28 on.
    """
    blocks: TypeAdapter[list[ContentBlock]] = TypeAdapter(list[ContentBlock])

    async def list_tools(
        context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                ListedTool(
                    name=tool.name,
                    description=tool.description,
                    input_schema=dict(tool.parameters),
                )
                for tool in tools()
            ]
        )

    async def call_tool(
        context: ServerRequestContext[Any], params: CallToolRequestParams
    ) -> CallToolResult:
        tool = next((tool for tool in tools() if tool.name == params.name), None)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"There is no tool {params.name!r}.")
        arguments = params.arguments or {}
        async with _progress(context) as tell:
            output = await run_call(
                tool, _as_written(tool, arguments), CallContext(session or _session(context), tell)
            )
        return CallToolResult(
            content=_content(output, blocks),
            structured_content=output.details.get("structured_content"),
            is_error=output.is_error,
        )

    return Server("ossia", version=__version__, on_list_tools=list_tools, on_call_tool=call_tool)


def _as_written(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """The arguments as our model would have written them."""
    return str(arguments.get("code", "")) if tool.builtin == "python" else json.dumps(arguments)


def _content(output: ToolOutput, blocks: TypeAdapter[list[ContentBlock]]) -> list[ContentBlock]:
    """The text, or the very content that an MCP server behind us answered with."""
    content = output.details.get("content")
    if content is not None:
        return blocks.validate_python(content)
    return [TextContent(type="text", text=output.text)]


def _session(context: ServerRequestContext[Any]) -> str:
    headers = getattr(context.request, "headers", {})
    return f"mcp-{headers.get(_SESSION_HEADER) or uuid.uuid4().hex}"


@contextlib.asynccontextmanager
async def _progress(
    context: ServerRequestContext[Any],
) -> AsyncIterator[Callable[[str], None]]:
    """What a tool tells its progress to, sent in order; all of it before the call is answered."""
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def send() -> None:
        sent = 0
        while (text := await queue.get()) is not None:
            sent += 1
            await context.session.report_progress(sent, message=text)

    sender = asyncio.create_task(send())
    try:
        yield queue.put_nowait
        queue.put_nowait(None)
        await sender
    finally:
        sender.cancel()
        await asyncio.wait([sender])
