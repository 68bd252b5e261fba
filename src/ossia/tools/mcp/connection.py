"""The tools of one MCP server as tools of ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ossia.tools.addresses import AddressRules
from ossia.tools.checks import fault_of
from ossia.tools.mcp.channel import Channel
from ossia.tools.mcp.remote import RemoteTool
from ossia.tools.mcp.spec import McpServerSpec
from ossia.tools.tool import CallContext, Tool, ToolOutput

logger = logging.getLogger(__name__)

_MAX_NAME = 128


class McpTool(Tool):
    """A tool that runs on an MCP server.

    Attributes:
        remote_name: what the server calls it; `name` is the same in letters that models may use.
    """

    remote_name: str

    def __init__(self, remote: RemoteTool, spec: McpServerSpec, channel: Channel) -> None:
        self._remote = remote
        self._channel = channel
        self.remote_name = remote.name
        self.name = re.sub(r"[^A-Za-z0-9_.-]", "_", remote.name)[:_MAX_NAME] or "_"
        self.description = remote.description
        self.parameters = {"type": "object", **remote.parameters}
        self.timeout = spec.timeout
        self.server_label = spec.label
        self.needs_approval = spec.asks_approval(remote.name)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Run it on the server; when this is cancelled, so is the call there."""
        return await self._channel.call(self._remote, arguments, self.timeout, context.progress)


class McpConnection:
    """What one user sees of a server, which may be connected to for others as well."""

    def __init__(self, spec: McpServerSpec, channel: Channel) -> None:
        self.spec = spec
        self._channel = channel
        self._own: Channel | None = None  # the same, if nobody else uses it
        self._listed: Sequence[RemoteTool] = ()
        self._tools: list[Tool] = []  # made of them

    @classmethod
    async def open(cls, spec: McpServerSpec, rules: AddressRules) -> McpConnection:
        """Connect to a server. It is connected to again by itself whenever that is necessary.

        Raises:
            McpUnavailable: it cannot be had; the sentence names it and says what happened.
            ForbiddenAddress: `rules` refuse its address.
        """
        channel = Channel(spec, rules)
        connection = cls(spec, channel)
        connection._own = channel
        try:
            await channel.open()
        except BaseException:
            await channel.close()
            raise
        return connection

    @property
    def tools(self) -> list[Tool]:
        """The tools that may be used, as the server listed them last."""
        if self._listed is not self._channel.tools:
            self._listed = self._channel.tools
            allowed = (remote for remote in self._listed if self.spec.allows(remote.name))
            made = [McpTool(remote, self.spec, self._channel) for remote in allowed]
            self._tools = [tool for tool in made if _is_fit(tool)]
        return list(self._tools)

    async def list_tools(self) -> list[Tool]:
        """The tools that may be used, from a server that is there.

        Raises:
            McpUnavailable: it is gone, and cannot be connected to again.
            ForbiddenAddress: the rules refuse its address, which has changed.
        """
        await self._channel.open()
        return self.tools

    async def close(self) -> None:
        """Say goodbye to the server, unless others use the connection as well."""
        if self._own is not None:
            await self._own.close()


def _is_fit(tool: McpTool) -> bool:
    """Whether it can be offered to a model; another server's mistakes are not ours to stop for."""
    fault = fault_of(tool)
    if fault is not None:
        logger.warning(
            "The tool %r of the MCP server %r is left out: it %s.",
            tool.remote_name,
            tool.server_label,
            fault,
        )
    return fault is None
