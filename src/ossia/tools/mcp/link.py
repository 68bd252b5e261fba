"""One session with one MCP server, from its first message to its end.

The SDK's client is a tree of task groups that must be entered and left by one task. Each link has
a task of its own for that, so that no request takes the session with it when it is cancelled.
Calls run in the tasks of their callers: what they share with the session are queues.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio
import httpx2
import mcp_types
from mcp import Client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    Implementation,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from mcp_types import Tool as ListedTool
from pydantic import ValidationError

from ossia import __version__
from ossia.tools.addresses import AddressRules, ForbiddenAddress
from ossia.tools.mcp.faults import (
    FORBIDDEN,
    LOST,
    NOT_SENT,
    REFUSED,
    SESSION_GONE,
)
from ossia.tools.mcp.remote import ConnectionLost, NotRun, RemoteTool
from ossia.tools.mcp.results import tool_output
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable
from ossia.tools.mcp.transports import transport
from ossia.tools.tool import ToolError, ToolOutput

_GOODBYE_SECONDS = 3.0  # to end a session politely
_MAX_PAGES = 100  # of a list of tools
_FIRST_LISTEN_AGAIN_SECONDS = 1.0
_MAX_LISTEN_AGAIN_SECONDS = 60.0

ToolsChanged = Callable[[Sequence[RemoteTool]], None]


class Link:
    """A live session. `open` makes it; once `ended`, it never works again."""

    def __init__(self, spec: McpServerSpec, rules: AddressRules, on_tools: ToolsChanged) -> None:
        """`on_tools` is given the tools each time that the server has listed them."""
        self._spec = spec
        self._rules = rules
        self._on_tools = on_tools
        self._stop = asyncio.Event()
        self._calls = 0
        self._quiet = asyncio.Event()  # no calls run
        self._quiet.set()
        self._changed = asyncio.Event()  # the server's tools have
        self._scope = anyio.CancelScope()
        self._failure = ""  # what happened to the connection, half a sentence
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._owner = asyncio.create_task(self._own(), name=f"mcp-{spec.label}")

    @classmethod
    async def open(cls, spec: McpServerSpec, rules: AddressRules, on_tools: ToolsChanged) -> Link:
        """Connect, and list the tools.

        Raises:
            McpUnavailable: it cannot be had.
            ForbiddenAddress: `rules` refuse its address.
        """
        if spec.transport != "stdio":
            rules.check_url(spec.url)
        link = cls(spec, rules, on_tools)
        try:
            async with asyncio.timeout(spec.connect_timeout):
                await asyncio.shield(link._client)
                await link.refresh()
        except BaseException as error:
            link._scope.cancel()
            await link.close()
            if not isinstance(error, Exception):
                raise
            raise link._refusal(error) from error
        return link

    @property
    def ended(self) -> bool:
        """Whether the session is over, or about to be."""
        return self._stop.is_set() or self._owner.done()

    async def refresh(self) -> None:
        """List the tools again."""
        client = self._client.result()
        tools: list[RemoteTool] = []
        cursor: str | None = None
        for _ in range(_MAX_PAGES):
            page = await client.session.list_tools(params=PaginatedRequestParams(cursor=cursor))
            tools += map(_remote_tool, page.tools)
            cursor = page.next_cursor
            if cursor is None:
                break
        self._on_tools(tools)

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any],
        timeout: float,
        tell: Callable[[str], None],
    ) -> ToolOutput:
        """Call a tool; cancelling this cancels the call on the server.

        `timeout` in seconds; `tell` is given the progress in words.

        Raises:
            NotRun: the server did not begin with it.
            ConnectionLost: the answer will never come.
            ToolError: the call failed.
        """

        async def on_progress(
            progress: float, total: float | None = None, message: str | None = None
        ) -> None:
            of_all = "" if total is None else f"/{total:g}"
            tell(message or f"{progress:g}{of_all}")

        self._calls += 1
        self._quiet.clear()
        try:
            result = await self._client.result().call_tool(
                name, dict(arguments), read_timeout_seconds=timeout, progress_callback=on_progress
            )
        except MCPError as error:
            raise self._call_failure(name, error, timeout) from None
        except (ValidationError, RuntimeError) as error:
            # RuntimeError: the SDK's, of structured content that does not fit the tool's schema.
            raise ToolError(
                f"The tool {name!r} of the MCP server {self._spec.label!r} gave an answer that "
                f"breaks the protocol: {_first_line(error)}"
            ) from error
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()
        return tool_output(result)

    async def retire(self) -> None:
        """Close it once the calls that run are over."""
        quiet, stop = (asyncio.create_task(e.wait()) for e in (self._quiet, self._stop))
        try:
            await asyncio.wait([quiet, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            quiet.cancel()
            stop.cancel()
            await self.close()

    def end(self) -> None:
        """Begin to end the session; calls that still run lose their connection."""
        self._stop.set()

    async def close(self) -> None:
        """End the session and wait for its end."""
        self._stop.set()
        await asyncio.wait([self._owner], timeout=_GOODBYE_SECONDS)
        self._scope.cancel()
        await asyncio.wait([self._owner])

    def _call_failure(self, name: str, error: MCPError, timeout: float) -> Exception:
        if error.code == NOT_SENT:
            return NotRun(error.message, session_gone=False)
        if error.code == SESSION_GONE:
            return NotRun(error.message, session_gone=True)
        if error.code in (LOST, CONNECTION_CLOSED):
            return ConnectionLost()
        tool = f"The tool {name!r} of the MCP server {self._spec.label!r}"
        if error.code == REQUEST_TIMEOUT:
            return ToolError(f"{tool} did not answer within {timeout:g} seconds.")
        return ToolError(f"{tool} failed: {error.message}")

    async def _own(self) -> None:
        try:
            with self._scope:
                async with Client(
                    transport(self._spec, self._rules, self._on_end),
                    client_info=Implementation(name="ossia", version=__version__),
                    # Without callbacks, the SDK declines sampling, elicitation and roots.
                    message_handler=self._on_message,
                    read_timeout_seconds=self._spec.timeout,
                    cache=None,
                ) as client:
                    if not self._client.done():
                        self._client.set_result(client)
                    await self._watch(client)
        except Exception as error:
            self._fail(error)
        finally:
            self._stop.set()
            if not self._client.done():
                self._fail(McpUnavailable("ended before it answered"))
            if not self._client.cancelled():
                self._client.exception()  # whoever opened the link may have left

    def _fail(self, error: Exception) -> None:
        if not self._client.done():
            self._client.set_exception(error)

    async def _watch(self, client: Client) -> None:
        """Until the end, list the tools again whenever they have changed."""
        capabilities = client.server_capabilities
        async with anyio.create_task_group() as tasks:
            if capabilities.tools is not None and capabilities.tools.list_changed:
                tasks.start_soon(self._listen, client)
            tasks.start_soon(self._refresh_on_change)
            await self._stop.wait()
            tasks.cancel_scope.cancel()

    async def _listen(self, client: Client) -> None:
        """Subscribe to changes, as the protocol wants from 2026-07-28 on."""
        wait = _FIRST_LISTEN_AGAIN_SECONDS
        while True:
            try:
                async with client.listen(tools_list_changed=True) as events:
                    wait = _FIRST_LISTEN_AGAIN_SECONDS
                    self._changed.set()  # maybe, while nobody listened
                    async for _ in events:
                        self._changed.set()
            except ListenNotSupportedError:
                return  # they come as notifications
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND:
                    return
            except (SubscriptionLost, TimeoutError, ValidationError):
                pass
            await anyio.sleep(wait)
            wait = min(2 * wait, _MAX_LISTEN_AGAIN_SECONDS)

    async def _refresh_on_change(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            with contextlib.suppress(MCPError, ValidationError):
                await self.refresh()

    async def _on_message(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._changed.set()

    def _on_end(self, reason: str) -> None:
        self._failure = self._failure or reason
        self._stop.set()

    def _refusal(self, error: BaseException) -> McpUnavailable | ForbiddenAddress:
        """Why it could not be connected to."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        match error:
            case ForbiddenAddress():
                return error
            case MCPError(code=code, message=message) if code == FORBIDDEN:
                return ForbiddenAddress(message)
            case _ if self._failure:
                reason = self._failure
            case McpUnavailable():
                reason = error.message
            case TimeoutError():
                reason = f"did not answer within {self._spec.connect_timeout:g} seconds"
            case MCPError(code=code) if code in (CONNECTION_CLOSED, LOST):
                reason = "ended the connection before it answered"
            case MCPError(code=code, message=message) if code in (NOT_SENT, SESSION_GONE, REFUSED):
                reason = message
            case ValidationError() | httpx2.SSEError() | MCPError(code=mcp_types.PARSE_ERROR):
                reason = "does not answer as the protocol wants"
            case httpx2.HTTPStatusError():
                reason = f"answered with HTTP status {error.response.status_code}"
            case httpx2.TransportError():
                reason = "cannot be reached"
            case OSError(strerror=str(why)):
                reason = f"cannot be started ({why})"
            case _:
                reason = f"failed: {_first_line(error).rstrip('.')}"
        return McpUnavailable(
            f"The MCP server {self._spec.label!r} at {self._spec.where} {reason}."
        )


def _remote_tool(tool: ListedTool) -> RemoteTool:
    hints = tool.annotations
    return RemoteTool(
        name=tool.name,
        description=tool.description or tool.title or "",
        parameters=tool.input_schema,
        repeatable=hints is not None and bool(hints.read_only_hint or hints.idempotent_hint),
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
