"""Which addresses the server contacts for a request, and HTTP clients that contact no others.

A request can make the server open a URL: a page that the model wants to read, an MCP server that
the client names. Without rules that reaches whatever the server's own network reaches, its cloud's
metadata service included (server-side request forgery). So a URL must lead to the public internet
over https, or to a host that the operator has allowed.

How the clients connect, so that a name cannot change its address after the check, is told in
`connections.py`.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ossia.errors import ConfigError, InvalidRequest

if TYPE_CHECKING:
    import httpx
    import httpx2

MAX_REDIRECTS = 5

Address = IPv4Address | IPv6Address
# From a host and a port to the addresses of the host; raises OSError if there are none.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]

# https://www.iana.org/assignments/iana-ipv4-special-registry, and what clouds keep to themselves.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT, and Alibaba's metadata service
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's platform services
        "169.254.0.0/16",  # link-local, and most metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",  # multicast, reserved and broadcast
    )
)
# https://www.iana.org/assignments/iana-ipv6-special-registry; all that is public is in 2000::/3.
_PUBLIC_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")

_DEFAULT_PORT = {"http": 80, "https": 443}
_NUMERALS = "0123456789abcdefxABCDEFX."  # of an IPv4 address in any base
_HOST = re.compile(r"[0-9a-z_-][0-9a-z._-]*|[0-9a-f:.]+")  # a name, or an IPv6 address
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback")


class ForbiddenAddress(InvalidRequest):
    """The server does not contact this URL; says what its operator can change."""

    code = "forbidden_address"


class AddressRules:
    """What is allowed: the public internet over https, and the hosts that the operator names."""

    def __init__(self, allowed_hosts: Collection[str] = ()) -> None:
        """`allowed_hosts`: `host`, `host:port`, `*.example.org` or `10.1.0.0/16`, each.

        A host that is allowed by its name is allowed whatever addresses its name has.

        Raises:
            ConfigError: one of them is none of these.
        """
        self._networks: list[IPv4Network | IPv6Network] = []
        self._hosts: set[tuple[str, int | None]] = set()
        self._domains: set[tuple[str, int | None]] = set()  # `.example.org`
        for text in allowed_hosts:
            self._allow(text.strip())

    def check_url(self, url: str) -> None:
        """Refuse what can be refused without resolving the name.

        Raises:
            ForbiddenAddress: the URL is malformed, or leads where the server must not go.
        """
        import httpx  # parses as the clients do

        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, ValueError, TypeError):
            raise ForbiddenAddress(f"{url[:200]!r} is not a valid URL.") from None
        self.check_request(parsed)

    def check_request(self, url: httpx.URL | httpx2.URL) -> None:
        """The same of a URL that a client has parsed."""
        host = _plain(url.raw_host.decode("ascii"))
        if url.scheme not in ("http", "https") or not host:
            raise ForbiddenAddress(f"{str(url)[:200]!r} is not an https URL.")
        if url.userinfo:
            raise ForbiddenAddress("A URL must not contain a user name or password.")
        port = _DEFAULT_PORT[url.scheme] if url.port is None else url.port
        if not 0 < port < 1 << 16:
            raise ForbiddenAddress(f"{port} is not the number of a port.")
        if self.allows_host(host, port):
            return
        if url.scheme == "http":
            raise ForbiddenAddress(
                f"Only https URLs are opened; for plain http to {host}, the operator can start "
                f"the server with --allowed-host {host}."
            )
        address = literal_address(host)
        if host in _LOCAL_NAMES or host.endswith(".localhost"):
            raise _not_public(host)
        if address is not None and not is_public(address):
            raise _not_public(host)

    def allows_host(self, host: str, port: int) -> bool:
        """Whether the operator has named this host, or its address where it is one."""
        host = _plain(host)
        address = literal_address(host)
        if address is not None:
            host = str(address)
            if any(address in network for network in self._networks):
                return True
        if (host, None) in self._hosts or (host, port) in self._hosts:
            return True
        return any(host.endswith(name) and at in (None, port) for name, at in self._domains)

    def check_addresses(self, host: str, port: int, addresses: Sequence[Address]) -> None:
        """Refuse a host unless it, or each of its addresses, may be contacted.

        Raises:
            ForbiddenAddress: the message leaves out the addresses: they are the network's secret.
        """
        if self.allows_host(host, port):
            return
        for address in addresses:
            if not is_public(address) and not self.allows_host(str(address), port):
                raise _not_public(host)

    def _allow(self, text: str) -> None:
        try:
            self._networks.append(ip_network(text, strict=False))
            return
        except ValueError:
            pass
        try:
            parts = urlsplit(f"//{text}")
            host, port = _plain(parts.hostname or ""), parts.port
            host = host.encode("idna").decode("ascii")
        except ValueError:
            parts, host, port = urlsplit(""), "", None
        wildcard = host.startswith("*.")
        name = host[2:] if wildcard else host
        if parts.netloc != text or "@" in text or not _HOST.fullmatch(name):
            raise ConfigError(
                f"--allowed-host {text!r} must be a host, host:port, *.example.org or a network "
                "like 10.1.0.0/16."
            )
        if wildcard:
            self._domains.add((f".{name}", port))
        else:
            address = literal_address(name)
            self._hosts.add((name if address is None else str(address), port))


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, looking into those that carry another."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.ipv4_mapped is not None:
        return is_public(address.ipv4_mapped)
    if address in _NAT64:
        return is_public(IPv4Address(int(address) & 0xFFFF_FFFF))
    if address.sixtofour is not None:
        return is_public(address.sixtofour)
    return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def literal_address(host: str) -> Address | None:
    """The address that a host spells, also the way of old: 127.1, 0x7f000001, 017700000001."""
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        # inet_aton alone would read the number before a blank and forget the rest.
        return IPv4Address(socket.inet_aton(host)) if not host.strip(_NUMERALS) else None
    except OSError:
        return None


def _plain(host: str) -> str:
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _not_public(host: str) -> ForbiddenAddress:
    return ForbiddenAddress(
        f"{host} is not on the public internet; the operator can start the server with "
        f"--allowed-host {host} to allow it."
    )


def safe_client(
    rules: AddressRules,
    *,
    verify: ssl.SSLContext | None = None,
    resolve: Resolver | None = None,
    **options: Any,
) -> httpx.AsyncClient:
    """An httpx client that keeps to `rules` at every request, redirects included.

    It keeps no cookies, since many people use it, and ignores proxies of the environment. Its
    requests raise `ForbiddenAddress` besides httpx's own errors. `options` are httpx's, without
    those that choose another way to connect.
    """
    import httpcore
    import httpx

    from ossia.tools.connections import checked_transport

    transport = checked_transport(httpx, httpcore, rules, verify, resolve)
    return httpx.AsyncClient(transport=transport, **_client_options(options))


def safe_httpx2_client(
    rules: AddressRules,
    *,
    verify: ssl.SSLContext | None = None,
    resolve: Resolver | None = None,
    **options: Any,
) -> httpx2.AsyncClient:
    """The same as a client of httpx2, which the MCP SDK is built on."""
    import httpcore2
    import httpx2

    from ossia.tools.connections import checked_transport

    transport = checked_transport(httpx2, httpcore2, rules, verify, resolve)
    return httpx2.AsyncClient(transport=transport, **_client_options(options))


def safe_transport(
    rules: AddressRules,
    *,
    verify: ssl.SSLContext | None = None,
    resolve: Resolver | None = None,
) -> httpx.AsyncBaseTransport:
    """The transport of `safe_client`. `verify` brings other certificates than the system's."""
    import httpcore
    import httpx

    from ossia.tools.connections import checked_transport

    transport: httpx.AsyncBaseTransport = checked_transport(httpx, httpcore, rules, verify, resolve)
    return transport


def _client_options(options: dict[str, Any]) -> dict[str, Any]:
    for name in ("transport", "mounts", "proxy"):
        if name in options:
            raise TypeError(f"{name} would lead around the address rules")
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))
    defaults = {"max_redirects": MAX_REDIRECTS, "cookies": no_cookies}
    return {**defaults, **options, "trust_env": False}
