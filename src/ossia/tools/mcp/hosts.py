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
        """`names`: besides localhost and addresses; `*.example.org` for all below, `*` for all."""
        known = {_name(f"//{name.removeprefix('*')}") for name in names if name != "*"} | set(
            _LOCAL
        )
        self._names = frozenset(name for name in known if name)
        self._endings = tuple(name for name in self._names if name.startswith("."))
        self._all = "*" in names

    def refusal(self, host: str | None, origin: str | None) -> tuple[int, str] | None:
        """Status and sentence for a request with these headers, or None if it may pass."""
        if self._all:
            return None
        name = _name(f"//{host or ''}")
        if not self._knows(name) and not _is_address(name):
            return 421, (
                f"This server does not know that it is called {name!r}; its operator can start it "
                f"with --allowed-host {name}."
            )
        if origin is None or self._knows(_name(origin)) or _is_same(origin, host or ""):
            return None
        return 403, (
            f"Pages of {origin!r} may not use this server; its operator can start it with "
            f"--allowed-host {_name(origin)}."
        )

    def _knows(self, name: str) -> bool:
        return name in self._names or bool(self._endings and name.endswith(self._endings))


def _name(url: str) -> str:
    """The host of a URL, or nothing where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_same(origin: str, host: str) -> bool:
    """Whether a page comes from this server itself."""
    _, _, origin_host = origin.partition("://")
    return origin_host.lower() == host.lower() != ""
