"""Responses over a WebSocket: one connection for many requests, one after the other.

A frame `{"type": "response.create", ...}` has the fields of POST /v1/responses; what comes back are
the same events, a frame each. Responses that are not stored can be continued on the connection that
they came on, for as long as it lasts and nothing goes wrong with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from ossia.errors import InvalidRequest, RequestError, Unauthorized
from ossia.server.auth import KeyCheck
from ossia.server.body import parse_body
from ossia.server.errors import error_body, error_response, internal_error
from ossia.server.responses.create import start_response
from ossia.server.responses.events import spelled
from ossia.server.responses.run import ResponseRun
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.service import Service
from ossia.store.records import StoredResponse

logger = logging.getLogger(__name__)

_KEPT = 8  # responses that are not stored, of one connection
_CREATE = "response.create"


def socket_router(service: Service) -> APIRouter:
    """The route of this file. It asks for the key itself, before the connection is accepted."""
    router = APIRouter()
    check = KeyCheck(service.config.api_keys)

    @router.websocket("/v1/responses")
    async def responses(socket: WebSocket) -> None:
        try:
            await check(socket)
        except Unauthorized as error:
            await socket.send_denial_response(error_response(error))
            return
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            await _Connection(service, socket).serve()

    return router


class _Connection:
    def __init__(self, service: Service, socket: WebSocket) -> None:
        self._service = service
        self._socket = socket
        self._frames: asyncio.Queue[str] = asyncio.Queue(maxsize=_KEPT)
        self._kept: OrderedDict[str, list[StoredResponse]] = OrderedDict()  # chains, by last id

    async def serve(self) -> None:
        """Answer frames until the client leaves, which ends what runs for it."""
        receiving = asyncio.create_task(self._receive())
        answering = asyncio.create_task(self._answer_all())
        try:
            await asyncio.wait({receiving, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (receiving, answering):
                task.cancel()
            await asyncio.gather(receiving, answering, return_exceptions=True)

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            data = message.get("text") or (message.get("bytes") or b"").decode("utf-8", "replace")
            await self._frames.put(data)

    async def _answer_all(self) -> None:
        while True:
            frame = await self._frames.get()
            previous: str | None = None
            try:
                request = _request(frame)
                previous = request.previous_response_id
                await self._answer(request)
            except RequestError as error:
                await self._refuse(error, previous)
            except WebSocketDisconnect:
                raise
            except Exception:
                identifier = secrets.token_hex(12)
                logger.exception("Request %s failed on its connection.", identifier)
                await self._refuse(internal_error(identifier), previous)

    async def _answer(self, request: ResponsesRequest) -> None:
        run = await start_response(self._service, request, secrets.token_hex(12), kept=self._kept)
        try:
            async for events in run.log.follow():
                for event in events:
                    await self._send(spelled(event, self._service.config.response_events))
        finally:
            if not run.is_background:
                run.cancel()
        await asyncio.wait([run.task])
        self._keep(run, request)

    def _keep(self, run: ResponseRun, request: ResponsesRequest) -> None:
        if run.error is not None:
            self._kept.pop(request.previous_response_id or "", None)
        elif request.store is False:
            self._kept[run.id] = [*run.chain, run.record]
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)

    async def _refuse(self, error: RequestError, previous: str | None) -> None:
        self._kept.pop(previous or "", None)
        await self._send({"type": "error", "status": int(error.status), **error_body(error)})

    async def _send(self, event: dict[str, Any]) -> None:
        await self._socket.send_text(msgspec.json.encode(event).decode())


def _request(frame: str) -> ResponsesRequest:
    request = parse_body(frame.encode(), _CreateFrame)
    if request.type != _CREATE:
        raise InvalidRequest(
            f"type is {request.type[:80]!r}; this connection takes frames of type {_CREATE}.",
            param="type",
        )
    if request.background:
        raise InvalidRequest(
            "background has no use on a connection that waits; leave it out.", param="background"
        )
    return request


class _CreateFrame(ResponsesRequest):
    type: str
