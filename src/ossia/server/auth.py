"""API keys: `Authorization: Bearer KEY`."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ossia.errors import Unauthorized
from ossia.server.errors import error_response


class KeyCheck:
    """Refuses requests that carry none of the keys; with no keys, lets everything pass."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = tuple(_digest(key) for key in keys)

    async def __call__(self, request: HTTPConnection) -> None:
        """Used as a FastAPI dependency.

        Raises:
            Unauthorized: the key is missing or wrong.
        """
        if not self._digests:
            return
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise Unauthorized(
                "This server asks for an API key; send it in the header Authorization: Bearer KEY.",
                code="missing_api_key",
            )
        given = _digest(key.strip())
        # Every key is compared, in constant time, so that timing tells nothing about them.
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if not any(matches):
            raise Unauthorized("The API key is wrong.")


class KeyCheckedApp:
    """An ASGI application behind the keys, for what is no FastAPI route."""

    def __init__(self, app: ASGIApp, keys: Sequence[str]) -> None:
        self._app = app
        self._check = KeyCheck(keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        try:
            await self._check(HTTPConnection(scope))
        except Unauthorized as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
