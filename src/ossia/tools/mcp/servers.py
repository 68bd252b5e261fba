"""The MCP servers that the operator configured: connected at start-up, for as long as we run."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from ossia.tools.addresses import AddressRules, ForbiddenAddress
from ossia.tools.mcp.channel import Channel
from ossia.tools.mcp.connection import McpConnection
from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable
from ossia.tools.tool import Tool

logger = logging.getLogger(__name__)

START_SECONDS = 5.0  # that the start waits for servers; then it goes on without them
_FIRST_RETRY_SECONDS = 1.0
_MAX_RETRY_SECONDS = 60.0


class McpServers:
    """The configured servers. One that is not there is waited for in the background."""

    def __init__(
        self,
        specs: Sequence[McpServerSpec],
        *,
        start_seconds: float = START_SECONDS,
        first_retry_seconds: float = _FIRST_RETRY_SECONDS,
    ) -> None:
        """Their hosts are allowed, private addresses included: the operator named them."""
        self._start_seconds = start_seconds
        self._first_retry_seconds = first_retry_seconds
        self._channels = {spec.label: Channel(spec, _rules_for(spec)) for spec in specs}
        self._connections = {
            spec.label: McpConnection(spec, self._channels[spec.label]) for spec in specs
        }
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to all; those that are down, or take longer than a few seconds, arrive later."""
        tried = [asyncio.Event() for _ in self._channels]
        self._tasks = [
            asyncio.create_task(self._connect(label, channel, event), name=f"mcp-start-{label}")
            for (label, channel), event in zip(self._channels.items(), tried, strict=True)
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._start_seconds):
                for event in tried:
                    await event.wait()

    async def close(self) -> None:
        """End all connections and the processes of servers that were started."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(channel.close() for channel in self._channels.values()))

    def tools(self) -> list[Tool]:
        """The tools of all servers, as each listed them last; none of one that never was there."""
        return [tool for connection in self._connections.values() for tool in connection.tools]

    def connection(self, label: str) -> McpConnection | None:
        """The server with this label, whether it is there or not."""
        return self._connections.get(label)

    async def _connect(self, label: str, channel: Channel, tried: asyncio.Event) -> None:
        wait = self._first_retry_seconds
        while True:
            try:
                await channel.open()
                break
            except (McpUnavailable, ForbiddenAddress) as error:
                if not tried.is_set():
                    logger.warning("%s It is tried again in the background.", error.message)
            except Exception:
                # The start must go on whatever a server makes the SDK raise.
                logger.exception("The MCP server %r cannot be connected to.", label)
                return
            finally:
                tried.set()
            await asyncio.sleep(wait)
            wait = min(2 * wait, _MAX_RETRY_SECONDS)
        logger.info("MCP server %r: %d tools", label, len(self._connections[label].tools))


def _rules_for(spec: McpServerSpec) -> AddressRules:
    if spec.transport == "stdio":
        return AddressRules()
    host = urlsplit(spec.url).hostname or ""
    return AddressRules([f"[{host}]" if ":" in host else host])
