"""MCP servers that requests bring along: `{"type": "mcp", "server_url": ...}`.

The requests of a conversation come minutes apart and name the same server, so its connection is
kept for a while. Nobody gets a connection that was opened with other headers than their own.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import OrderedDict
from urllib.parse import urlsplit

from ossia.errors import InvalidRequest
from ossia.tools.addresses import AddressRules
from ossia.tools.mcp.channel import Channel
from ossia.tools.mcp.connection import McpConnection
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable

IDLE_SECONDS = 300.0
MAX_SERVERS = 64  # that are kept, connected or not

_Key = tuple[str, str, float, frozenset[tuple[str, str]]]


class RequestServers:
    """Connections by address and headers, shared by the requests that name them."""

    def __init__(
        self,
        rules: AddressRules,
        *,
        idle_seconds: float = IDLE_SECONDS,
        max_servers: int = MAX_SERVERS,
    ) -> None:
        """`rules` are kept by every connection."""
        self._rules = rules
        self._idle_seconds = idle_seconds
        self._max_servers = max_servers
        self._channels: OrderedDict[_Key, Channel] = OrderedDict()  # used last at the end

    def __len__(self) -> int:
        """How many servers are connected to right now."""
        return sum(channel.linked for channel in self._channels.values())

    async def connect(self, spec: McpServerSpec) -> McpConnection:
        """A connection to the server, with the label, tools and approvals of `spec`.

        Closing it is not necessary, and closes it for nobody else.

        Raises:
            McpUnavailable: it cannot be had; the sentence names it and says what happened.
            ForbiddenAddress: this server does not contact such an address.
            InvalidRequest: a request cannot start a command.
        """
        if spec.transport == "stdio":
            raise InvalidRequest("A request can name an MCP server by its URL only.")
        key: _Key = (spec.transport, spec.url, spec.timeout, frozenset(spec.headers.items()))
        channel = self._channels.get(key)
        if channel is None:
            self._rules.check_url(spec.url)
            await self._make_room(spec)
            channel = self._channels.setdefault(
                key, Channel(_anonymous(spec), self._rules, idle_seconds=self._idle_seconds)
            )
        self._channels.move_to_end(key)
        try:
            await channel.open()
        except McpUnavailable:
            if self._channels.get(key) is channel and not channel.calls:
                del self._channels[key]
            raise
        return McpConnection(spec, channel)

    async def close(self) -> None:
        """End all connections."""
        channels = list(self._channels.values())
        self._channels.clear()
        await asyncio.gather(*(channel.close() for channel in channels))

    async def _make_room(self, spec: McpServerSpec) -> None:
        if len(self._channels) < self._max_servers:
            return
        # Those without a link come first: nobody has called them for a while.
        by_need = sorted(self._channels.items(), key=lambda item: item[1].linked)
        for key, channel in by_need:
            if not channel.calls:
                del self._channels[key]
                await channel.close()
                return
        raise McpUnavailable(
            f"The MCP server {spec.label!r} cannot be connected to now: this server speaks to "
            f"{self._max_servers} others already; please retry later."
        )


def _anonymous(spec: McpServerSpec) -> McpServerSpec:
    """What the requests that name the server have in common; messages then name its host."""
    return dataclasses.replace(
        spec,
        label=urlsplit(spec.url).hostname or spec.url,
        allowed_tools=None,
        require_approval=frozenset(),
    )
