"""What is known of an MCP server before it is spoken to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ossia.errors import RequestError

DEFAULT_TIMEOUT = 60.0  # seconds a call may take
CONNECT_TIMEOUT = 30.0  # seconds: a command may have to be downloaded by npx or uvx

TransportName = Literal["streamable_http", "sse", "stdio"]


class McpUnavailable(RequestError):
    """An MCP server that cannot be used; the sentence names it and says what happened."""

    status = 424  # as OpenAI's API answers when a connector fails
    type = "external_connector_error"
    code = "mcp_server_unavailable"


@dataclass(frozen=True, slots=True)
class McpServerSpec:
    """One MCP server, and what may be done with it."""

    label: str  # what users and the API call it
    transport: TransportName
    url: str = ""  # of the HTTP transports
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold secrets
    command: str = ""  # of stdio
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # besides a safe minimum
    cwd: str | None = None
    timeout: float = DEFAULT_TIMEOUT
    connect_timeout: float = CONNECT_TIMEOUT
    allowed_tools: tuple[str, ...] | None = None  # names on the server; None: all
    # The names on the server of the tools whose calls wait for approval.
    require_approval: frozenset[str] | Callable[[str], bool] = frozenset()

    def allows(self, tool: str) -> bool:
        """Whether the tool with this name on the server is offered at all."""
        return self.allowed_tools is None or tool in self.allowed_tools

    def asks_approval(self, tool: str) -> bool:
        """Whether a call of the tool with this name on the server waits for its user."""
        if callable(self.require_approval):
            return self.require_approval(tool)
        return tool in self.require_approval

    @property
    def where(self) -> str:
        """Where it is, for messages; without secrets."""
        if self.transport == "stdio":
            return self.command
        return self.url.partition("?")[0]
