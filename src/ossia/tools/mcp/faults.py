"""Failures of HTTP as answers to the one request that they befell.

The SDK's transport ends the whole connection when a POST fails, with all other calls that run over
it, and forgets the status of an error response. So failures are turned into JSON-RPC errors here,
below it, with codes that tell whether the server can have begun with the request.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import httpx2

from ossia.tools.addresses import AddressRules, ForbiddenAddress, safe_httpx2_client

# Codes of our own, in the range that JSON-RPC leaves to implementations.
NOT_SENT = -32010  # nothing was sent
SESSION_GONE = -32011  # the server refused: it does not know the session (any more)
REFUSED = -32012  # the server, or what stands before it, refused
LOST = -32013  # the request was sent, and the connection ended without an answer
FORBIDDEN = -32014  # the address rules refuse the server

_CONNECT_SECONDS = 10.0
_SESSION_HEADER = "mcp-session-id"
_MAX_ERROR_BYTES = 1 << 20


def mcp_http_client(
    rules: AddressRules,
    headers: dict[str, str],
    read_timeout: float,
    *,
    on_failure: Callable[[str], None] | None = None,
) -> httpx2.AsyncClient:
    """A client for the SDK's transports that keeps to `rules`.

    `read_timeout`: seconds between two parts of an answer. `on_failure`: is told what happened and
    the failure raised, instead of becoming an answer; of the old SSE transport, whose answers come
    another way.
    """
    inner = safe_httpx2_client(rules)
    return httpx2.AsyncClient(
        transport=_Answering(inner, read_timeout, on_failure),
        headers=headers,
        timeout=httpx2.Timeout(_CONNECT_SECONDS),
        trust_env=False,
    )


class _Answering(httpx2.AsyncBaseTransport):
    def __init__(
        self,
        inner: httpx2.AsyncClient,
        read_timeout: float,
        on_failure: Callable[[str], None] | None,
    ) -> None:
        self._inner = inner
        self._read_timeout = read_timeout
        self._on_failure = on_failure

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        is_post = request.method == "POST"
        # A stream of events is silent for as long as nothing happens.
        read_timeout = self._read_timeout if is_post else None
        request.extensions["timeout"] = {**request.extensions["timeout"], "read": read_timeout}
        try:
            response = await self._inner.send(request, stream=True, follow_redirects=False)
            if is_post and response.status_code >= 400:
                return await self._explained(request, response)
            return response
        except ForbiddenAddress as error:
            return self._answer(request, FORBIDDEN, error.message, error)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            return self._answer(request, NOT_SENT, "cannot be reached", error)
        except httpx2.TransportError as error:
            return self._answer(request, LOST, f"broke off ({type(error).__name__})", error)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def _answer(
        self, request: httpx2.Request, code: int, reason: str, error: Exception
    ) -> httpx2.Response:
        if request.method != "POST":
            raise error
        if self._on_failure is not None:
            self._on_failure(reason)
            raise error
        return _json_rpc_error(request, code, reason)

    async def _explained(
        self, request: httpx2.Request, response: httpx2.Response
    ) -> httpx2.Response:
        """The response, or one in its place that says what its status means."""
        status = response.status_code
        if self._on_failure is not None:
            self._on_failure(_refusal(status))
            return response
        body = b""
        async for part in response.aiter_bytes():
            body += part
            if len(body) > _MAX_ERROR_BYTES:
                break
        await response.aclose()
        if status == HTTPStatus.NOT_FOUND and _SESSION_HEADER in request.headers:
            return _json_rpc_error(request, SESSION_GONE, "has forgotten the session")
        if b'"jsonrpc"' in body and len(body) <= _MAX_ERROR_BYTES:
            return httpx2.Response(
                status,
                content=body,
                headers={"content-type": response.headers.get("content-type", "")},
                request=request,
            )
        return _json_rpc_error(request, REFUSED, _refusal(status))


def _refusal(status: int) -> str:
    if status == HTTPStatus.UNAUTHORIZED:
        return "asks for an authorization that it did not get (HTTP status 401)"
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown"
    return f"answered with HTTP status {status} ({phrase})"


def _json_rpc_error(request: httpx2.Request, code: int, reason: str) -> httpx2.Response:
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": reason}}
    return httpx2.Response(503, json=error, request=request)
