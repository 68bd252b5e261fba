"""The sessions of our MCP server over HTTP.

Clients of the protocol up to 2025-11-25 have sessions, so that their cancellations find the call;
later ones need none.
"""

from __future__ import annotations

from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings

from ossia.tools.mcp.server import Tools, make_server


def session_manager(
    tools: Tools, max_sessions: int, idle_seconds: float
) -> StreamableHTTPSessionManager:
    """What answers the HTTP requests of MCP clients. `idle_seconds`: a session is kept."""
    return StreamableHTTPSessionManager(
        make_server(tools),
        max_sessions=max_sessions,
        session_idle_timeout=idle_seconds,
        # Our own check comes first, and knows what is safe besides lists of names.
        security_settings=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
