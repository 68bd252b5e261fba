"""Connections of httpx, or of its fork httpx2, that lead only to addresses that were checked.

A name is resolved once, at the moment of connecting; every address it has is checked, and one of
those very addresses is connected to. A name that changes its address in between (DNS rebinding)
gains nothing. The Host header, SNI and the certificate still go by the name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from ipaddress import ip_address
from types import ModuleType
from typing import Any

from ossia.tools.addresses import (
    Address,
    AddressRules,
    ForbiddenAddress,
    Resolver,
    literal_address,
)

_MAX_ATTEMPTS = 4  # addresses of one name that are tried
_CONNECT_SECONDS = 10.0  # where the client sets no limit


def checked_transport(
    http: ModuleType,
    core: ModuleType,
    rules: AddressRules,
    verify: ssl.SSLContext | None,
    resolve: Resolver | None,
) -> Any:
    """A transport of `http` (httpx or its fork) over `core` (httpcore or its fork).

    It is made of the public parts of both, which have the same shapes; their types have not.
    Its requests raise `ForbiddenAddress` besides the errors of `http`.
    """
    pool = core.AsyncConnectionPool(
        ssl_context=verify or http.create_ssl_context(),
        max_connections=100,
        max_keepalive_connections=20,
        keepalive_expiry=5.0,
        network_backend=_Backend(core, rules, resolve or _resolve),
    )
    byte_stream: Any = http.AsyncByteStream
    base_transport: Any = http.AsyncBaseTransport

    def translated(error: Exception) -> Exception:
        # The errors of both libraries have the same names.
        kind = getattr(http, type(error).__name__, http.TransportError)
        made: Exception = kind(str(error))
        return made

    errors = (
        core.TimeoutException,
        core.NetworkError,
        core.ProtocolError,
        core.UnsupportedProtocol,
    )

    class Body(byte_stream):  # type: ignore[misc]
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for part in self._stream:
                    yield part
            except errors as error:
                raise translated(error) from error

        async def aclose(self) -> None:
            await self._stream.aclose()

    class Transport(base_transport):  # type: ignore[misc]
        async def handle_async_request(self, request: Any) -> Any:
            rules.check_request(request.url)
            url = core.URL(
                scheme=request.url.raw_scheme,
                host=request.url.raw_host,
                port=request.url.port,
                target=request.url.raw_path,
            )
            sent = core.Request(
                method=request.method,
                url=url,
                headers=request.headers.raw,
                content=request.stream,
                extensions=request.extensions,
            )
            try:
                response = await pool.handle_async_request(sent)
            except errors as error:
                raise translated(error) from error
            return http.Response(
                status_code=response.status,
                headers=response.headers,
                stream=Body(response.stream),
                extensions=response.extensions,
            )

        async def aclose(self) -> None:
            await pool.aclose()

    return Transport()


class _Backend:
    """Makes the connections of httpcore, or of its fork: to addresses that were checked."""

    def __init__(self, core: ModuleType, rules: AddressRules, resolve: Resolver) -> None:
        self._core = core
        self._rules = rules
        self._resolve = resolve
        self._inner = core.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> Any:
        clock = asyncio.get_running_loop().time
        deadline = clock() + (_CONNECT_SECONDS if timeout is None else timeout)
        addresses = await self._addresses(host, port, deadline)
        self._rules.check_addresses(host, port, addresses)
        addresses = addresses[:_MAX_ATTEMPTS]
        for left in range(len(addresses), 0, -1):
            # An address that does not answer leaves time for the others.
            seconds = max(deadline - clock(), 0.0) / left
            address = str(addresses[-left])
            try:
                return await self._inner.connect_tcp(
                    address, port, seconds, local_address, socket_options
                )
            except (self._core.ConnectError, self._core.ConnectTimeout):
                if left == 1:
                    raise
        raise self._core.ConnectError(f"{host} has no address")

    async def connect_unix_socket(self, path: str, *_: Any, **__: Any) -> Any:
        raise ForbiddenAddress("UNIX sockets are not contacted.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int, deadline: float) -> Sequence[Address]:
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        try:
            async with asyncio.timeout_at(deadline):
                found = await self._resolve(host, port)
        except TimeoutError:
            raise self._core.ConnectTimeout(f"The name {host} took too long to resolve") from None
        except OSError:
            raise self._core.ConnectError(f"The name {host} cannot be resolved") from None
        return [ip_address(text) for text in dict.fromkeys(found)]


async def _resolve(host: str, port: int) -> Sequence[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]
