"""The three ways to a server, each a context manager that yields the SDK's two streams."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

import anyio
import httpx2
from mcp import StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._stream_protocols import ReadStream, WriteStream
from mcp.shared.message import SessionMessage

from ossia.tools.addresses import AddressRules
from ossia.tools.mcp.faults import mcp_http_client
from ossia.tools.mcp.spec import McpServerSpec

_READ_SLACK = 5.0  # seconds: the time-out of a call comes before that of its connection

Streams = tuple[ReadStream[SessionMessage | Exception], WriteStream[SessionMessage]]


@contextlib.asynccontextmanager
async def transport(
    spec: McpServerSpec, rules: AddressRules, on_end: Callable[[str], None]
) -> AsyncIterator[Streams]:
    """The streams to and from a server.

    `on_end` is called when nothing can come from it any more, with what happened as half a
    sentence where that is known; the SDK itself would tell those only who wait for an answer.
    """
    async with _of(spec, rules, on_end) as (read, write):
        yield _WatchedStream(read, lambda: on_end("")), write


def _of(
    spec: McpServerSpec, rules: AddressRules, on_end: Callable[[str], None]
) -> AbstractAsyncContextManager[Streams]:
    match spec.transport:
        case "stdio":
            return _stdio(spec)
        case "sse":
            return _sse(spec, rules, on_end)
        case "streamable_http":
            return _streamable_http(spec, rules)


def _stdio(spec: McpServerSpec) -> AbstractAsyncContextManager[Streams]:
    parameters = StdioServerParameters(
        command=spec.command, args=list(spec.args), env=dict(spec.env), cwd=spec.cwd
    )
    # What it says there is for the operator: the stream of the process, whoever captures ours.
    return stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr)


def _sse(
    spec: McpServerSpec, rules: AddressRules, on_end: Callable[[str], None]
) -> AbstractAsyncContextManager[Streams]:
    def client(
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        own = {**(headers or {}), **spec.headers}
        return mcp_http_client(rules, own, spec.timeout + _READ_SLACK, on_failure=on_end)

    return sse_client(spec.url, httpx_client_factory=client)


@contextlib.asynccontextmanager
async def _streamable_http(spec: McpServerSpec, rules: AddressRules) -> AsyncIterator[Streams]:
    async with (
        mcp_http_client(rules, dict(spec.headers), spec.timeout + _READ_SLACK) as client,
        streamable_http_client(spec.url, http_client=client) as streams,
    ):
        yield streams


class _WatchedStream:
    """A stream that tells of its end."""

    def __init__(
        self, stream: ReadStream[SessionMessage | Exception], on_end: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._on_end = on_end

    @property
    def last_context(self) -> Any:
        """The SDK's: context variables of whoever sent the message."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        try:
            return await self._stream.__anext__()
        except (StopAsyncIteration, anyio.ClosedResourceError):
            self._on_end()
            raise

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._stream.__aexit__(exc_type, exc_val, exc_tb)
