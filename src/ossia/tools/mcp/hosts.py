"""Who may speak to us from a browser: the protection against DNS rebinding that MCP asks for.

A page on the internet can point its own name at this machine and then speak to us from its
visitor's browser. It cannot choose what the browser puts into `Host` and `Origin`, which name the
page's site. Addresses are safe as a `Host`: rebinding needs a name.
https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#security-warning
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

_LOCAL = ("localhost", "127.0.0.1", "::1")


class HostCheck:
    """Knows the names that this server is called by."""

    def __init__(self, names: Collection[str] = ()) -> None:
        """`names`: hosts without ports, besides localhost and addresses; `*` allows all."""
        self._names = {_name(f"//{name}") for name in names} | set(_LOCAL)
        self._all = "*" in names

    def refusal(self, host: str | None, origin: str | None) -> tuple[int, str] | None:
        """Status and sentence for a request with these headers, or None if it may pass."""
        if self._all:
            return None
        name = _name(f"//{host or ''}")
        if name not in self._names and not _is_address(name):
            return 421, (
                f"This server is not called {name!r}; its operator can start it with "
                "--mcp-allowed-host to allow the name."
            )
        if origin is None or _is_same(origin, host or "") or _name(origin) in self._names:
            return None
        return 403, (
            f"Pages from {origin!r} may not use this server; its operator can start it with "
            "--mcp-allowed-host to allow them."
        )


def _name(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_address(name: str | None) -> bool:
    try:
        ipaddress.ip_address(name or "")
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Whether a page comes from this server itself."""
    return urlsplit(origin).netloc.lower() == host.lower() != ""
