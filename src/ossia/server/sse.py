"""Server-sent events, and noticing that the client has left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Coroutine, Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ossia.errors import RequestError
from ossia.server.errors import error_body, internal_error

logger = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 15.0  # proxies tend to close a connection after 30 to 60 silent seconds
CLIENT_CLOSED_REQUEST = 499  # for the access log alone: nobody is left to read it
DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode
T = TypeVar("T")


def event(data: object) -> bytes:
    """One event with `data` as JSON."""
    return b"data: " + _encode(data) + b"\n\n"


def named_event(data: Mapping[str, Any]) -> bytes:
    """One event with `data` as JSON, under the name of its `type`."""
    return b"event: " + str(data["type"]).encode() + b"\n" + event(data)


class EventStream(Response):
    """Sends `events` as they come. When the client leaves, the iterator is cancelled at once.

    A failure of the iterator is sent as a last event with an `error`, because the status line is
    out already.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        # An empty body gave it a length; this one has none.
        del self.headers["content-length"]
        self._events = events
        self._sent_something = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = {"type": "http.response.start", "status": self.status_code}
        await send({**head, "headers": self.raw_headers})
        sending = asyncio.create_task(self._send_events(send, scope["ossia.request_id"]))
        leaving = asyncio.create_task(_wait_until_gone(receive))
        try:
            while not (sending.done() or leaving.done()):
                self._sent_something = False
                await asyncio.wait(
                    {sending, leaving},
                    timeout=KEEP_ALIVE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if not (sending.done() or leaving.done() or self._sent_something):
                    await _send_part(send, b": keep-alive\n\n")
            if sending.done():
                sending.result()
        finally:
            await _cancel(sending, leaving)
            await self._events.aclose()

    async def _send_events(self, send: Send, identifier: str) -> None:
        try:
            async for part in self._events:
                self._sent_something = True
                await _send_part(send, part)
        except RequestError as error:
            await _send_part(send, event(error_body(error)))
        except Exception:
            logger.exception("Request %s failed while it was streamed.", identifier)
            await _send_part(send, event(error_body(internal_error(identifier))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None, with `work` cancelled, if the client leaves first.

    The body of `request` must have been read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_wait_until_gone(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        await _cancel(working, leaving)


def nobody_left() -> Response:
    """What a handler returns when the client is gone."""
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _send_part(send: Send, part: bytes) -> None:
    await send({"type": "http.response.body", "body": part, "more_body": True})


async def _wait_until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        # A failure was raised by whoever asked for the result.
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
