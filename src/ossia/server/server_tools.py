"""The tools that this server can run: built in, plugged in, of configured and of named servers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from ossia.config import ServerConfig
from ossia.errors import InvalidRequest
from ossia.tools.addresses import AddressRules
from ossia.tools.options import ToolOptions
from ossia.tools.registry import DEMO, ToolRegistry, load_tools
from ossia.tools.tool import Tool

if TYPE_CHECKING:
    from ossia.tools.mcp.request_servers import RequestServers
    from ossia.tools.mcp.servers import McpServers

logger = logging.getLogger(__name__)

_MAX_NOTED = 32  # types of tools
OWN_LABELS = ("ossia", "demo")  # what requests may call the tools of this process


def server_tools(config: ServerConfig) -> ServerTools:
    """The tools of this configuration; servers are not connected to yet.

    Raises:
        ConfigError: a tool or server that cannot be had as configured.
    """
    options = ToolOptions(
        python_memory=config.python_memory,
        python_timeout=config.python_timeout,
        browser_folder=config.browser_folder,
        browser_search_url=config.browser_search_url,
        allowed_hosts=config.allowed_hosts,
    )
    values = [part.strip() for value in config.tool_servers for part in value.split(",")]
    names = [*config.tools, *(DEMO for value in values if value == DEMO)]
    addresses = [value for value in values if value not in (DEMO, "")]
    servers = None
    if addresses:
        from ossia.tools.mcp.configuration import parse_tool_servers
        from ossia.tools.mcp.servers import McpServers

        servers = McpServers(parse_tool_servers(addresses))
    registry = load_tools(names, options)
    return ServerTools(registry, servers=servers, allowed_hosts=config.allowed_hosts)


class ServerTools:
    """All of them. MCP code is loaded when a server is configured or named."""

    def __init__(
        self,
        registry: ToolRegistry,
        *,
        servers: McpServers | None = None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        """`allowed_hosts` may be named in requests although they are not public."""
        self._registry = registry
        self._servers = servers
        self._rules = AddressRules(allowed_hosts)
        self._named: RequestServers | None = None
        self._left_out: set[str] = set()

    def note_left_out(self, kind: str) -> None:
        """Say once that requests name tools of a type that cannot run here: agents always do."""
        if kind not in self._left_out and len(self._left_out) < _MAX_NOTED:
            self._left_out.add(kind)
            logger.warning(
                "Requests name tools of type %r; they are left out, since they cannot run here.",
                kind[:80],
            )

    async def start(self) -> None:
        """Connect to the configured servers; one that is not there is waited for."""
        if self._servers is not None:
            await self._servers.start()

    async def close(self) -> None:
        """Give back what tools hold, and end all connections."""
        closing = [self._registry.close()]
        if self._servers is not None:
            closing.append(self._servers.close())
        if self._named is not None:
            closing.append(self._named.close())
        await asyncio.gather(*closing)

    def own(self) -> list[Tool]:
        """The tools of this process."""
        return list(self._registry.tools.values())

    def all(self) -> list[Tool]:
        """These, and those of configured servers."""
        return self.own() + (self._servers.tools() if self._servers is not None else [])

    def builtin(self, namespace: str) -> list[Tool]:
        """The tools of a namespace that gpt-oss was trained on; none if it is not enabled."""
        return [tool for tool in self.own() if tool.builtin and tool.builtin == namespace]

    def labels(self) -> set[str]:
        """What requests may call the servers that are there."""
        found = {tool.server_label for tool in self.all()}
        return found | set(OWN_LABELS) if self._registry.tools else found

    def by_label(self, label: str) -> Sequence[Tool] | None:
        """The tools of a configured server, or of this process; None if there is no such server."""
        connection = self._servers.connection(label) if self._servers is not None else None
        if connection is not None:
            return connection.tools
        if label in OWN_LABELS and self._registry.tools:
            return self.own()
        return [tool for tool in self.own() if tool.server_label == label] or None

    async def connect(
        self, label: str, url: str, headers: Mapping[str, str], path: str
    ) -> tuple[Sequence[Tool], str | None]:
        """The tools of a server that a request names, or why they cannot be had.

        Raises:
            InvalidRequest: this server does not contact such an address; `path` is the tool's.
        """
        from ossia.tools.addresses import ForbiddenAddress
        from ossia.tools.mcp.request_servers import RequestServers
        from ossia.tools.mcp.spec import McpServerSpec, McpUnavailable

        if self._named is None:
            self._named = RequestServers(self._rules)
        is_sse = url.partition("?")[0].rstrip("/").endswith("/sse")
        spec = McpServerSpec(
            label=label,
            transport="sse" if is_sse else "streamable_http",
            url=url,
            headers=headers,
        )
        try:
            return (await self._named.connect(spec)).tools, None
        except ForbiddenAddress as error:
            raise InvalidRequest(error.message, param=f"{path}.server_url") from None
        except McpUnavailable as error:
            return [], error.message
