"""Around every request: an id, one log line, its metrics, and an answer if a handler fails."""

from __future__ import annotations

import logging
import secrets
import time
from http import HTTPStatus

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ossia.server.errors import error_response, internal_error
from ossia.server.metrics import Metrics
from ossia.server.sse import CLIENT_CLOSED_REQUEST
from ossia.server.usage import Usage

logger = logging.getLogger("ossia.access")

_QUIET = ("/health", "/metrics")  # asked every few seconds by machines
_OTHER = "other"  # paths that are not ours share one label, or strangers could fill the memory


def request_id(request: Request) -> str:
    """The id of the request, also in its x-request-id header."""
    return str(request.scope["ossia.request_id"])


def note_usage(request: Request, usage: Usage) -> None:
    """What the log line of this request says about tokens."""
    request.scope["ossia.usage"] = usage


class AccessLog:
    """ASGI middleware. `metrics` gets every request, the log all but health checks."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        identifier = scope["ossia.request_id"] = secrets.token_hex(12)

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", identifier.encode()),
                ]
            await send(message)

        try:
            await self._app(scope, receive, noting_status)
        except ClientDisconnect:  # before its request was read
            status = CLIENT_CLOSED_REQUEST
        except Exception:
            logger.exception("Request %s failed.", identifier)
            if status == 0:
                await error_response(internal_error(identifier))(scope, receive, noting_status)
        finally:
            self._note(scope, status, time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = scope.get("route")
        endpoint = getattr(route, "path", _OTHER)
        self._metrics.requests.labels(endpoint, status).inc()
        usage: Usage | None = scope.get("ossia.usage")
        if usage is not None:
            self._metrics.request_seconds.labels(endpoint).observe(seconds)
        if scope["path"] in _QUIET and status == HTTPStatus.OK:
            return
        tokens = (
            f", {usage.prompt_tokens} tokens read, {usage.completion_tokens} written"
            if usage
            else ""
        )
        # The raw path is as sent, percent-encoded: a line break in it cannot forge a line here.
        path = scope["raw_path"].decode("ascii", "replace")
        logger.info("%s %s %d in %.3f s%s", scope["method"], path, status, seconds, tokens)
