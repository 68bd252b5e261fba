"""Our tools for MCP clients over streamable HTTP: an ASGI app for the path `/mcp`."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Collection, MutableMapping, Sequence
from typing import Any

from ossia.tools.mcp.hosts import HostCheck
from ossia.tools.tool import Tool

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

MAX_SESSIONS = 1000
IDLE_SECONDS = 1800.0  # after which a session is forgotten


def mcp_app(tools: Callable[[], Sequence[Tool]], *, allowed_hosts: Collection[str] = ()) -> McpApp:
    """An app that offers what `tools` gives at each request.

    `allowed_hosts`: names that clients call this server by, besides localhost and addresses.
    """
    return McpApp(tools, HostCheck(allowed_hosts))


class McpApp:
    """Serves every path it is given. It starts with its first request, and must be stopped."""

    def __init__(self, tools: Callable[[], Sequence[Tool]], hosts: HostCheck) -> None:
        self._tools = tools
        self._hosts = hosts
        self._owner: asyncio.Task[None] | None = None
        self._manager: asyncio.Future[Any] | None = None
        self._stop = asyncio.Event()

    async def __call__(
        self, scope: MutableMapping[str, Any], receive: _Receive, send: _Send
    ) -> None:
        """One HTTP request."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._hosts.refusal(headers.get(b"host"), headers.get(b"origin"))
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        if self._stop.is_set():
            await _refuse(send, 503, "The server stops.")
            return
        manager = await self._started()
        await manager.handle_request(scope, receive, send)

    async def start(self) -> None:
        """Start now, instead of with the first request, which would then wait for a second."""
        await self._started()

    async def stop(self) -> None:
        """End all sessions and streams, and cancel the calls that run."""
        self._stop.set()
        if self._owner is not None:
            await asyncio.wait([self._owner])

    async def _started(self) -> Any:
        if self._manager is None:
            self._manager = asyncio.get_running_loop().create_future()
            # The SDK's task groups are entered and left by one task, this one.
            self._owner = asyncio.create_task(self._own(self._manager), name="mcp-server")
        return await asyncio.shield(self._manager)

    async def _own(self, started: asyncio.Future[Any]) -> None:
        try:
            # In a thread, because importing the SDK takes most of a second.
            sessions = await asyncio.to_thread(importlib.import_module, "ossia.tools.mcp.sessions")
            manager = sessions.session_manager(self._tools, MAX_SESSIONS, IDLE_SECONDS)
            async with manager.run():
                started.set_result(manager)
                await self._stop.wait()
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)  # for every request that waits, or comes


async def _refuse(send: _Send, status: int, sentence: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": sentence.encode()})
