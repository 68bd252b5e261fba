"""The endpoints of responses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.harmony.prompt import render_prompt
from ossia.server.access_log import note_usage, request_id
from ossia.server.body import read_body
from ossia.server.openapi import takes
from ossia.server.responses.body import cancelled
from ossia.server.responses.create import start_response
from ossia.server.responses.events import TERMINAL, spelled
from ossia.server.responses.history import NotStored
from ossia.server.responses.pages import page_of
from ossia.server.responses.prepare import prepare_turn
from ossia.server.responses.replay import replayed
from ossia.server.responses.run import ResponseRun
from ossia.server.schema.responses import ResponsesRequest, TurnOptions
from ossia.server.service import Service
from ossia.server.sse import DONE, EventStream, named_event, nobody_left, unless_client_leaves
from ossia.store.records import UNFINISHED, StoredResponse

JsonObject = dict[str, Any]
_POLL_SECONDS = 0.5  # for a response that runs in another process


def responses_router(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter()

    @router.post("/v1/responses", openapi_extra=takes(ResponsesRequest))
    async def create_response(request: Request) -> Response:
        """Ask for a response: reasoning, calls of tools, an answer."""
        body = await read_body(request, ResponsesRequest)
        starting = start_response(service, body, request_id(request))
        run = await unless_client_leaves(request, starting)
        if run is None:
            return nobody_left()
        if body.stream:
            return EventStream(_watch(service, run, request))
        if run.is_background:
            return _json(run.body)
        waiting = asyncio.shield(run.task)
        if await unless_client_leaves(request, _ended(waiting)) is None:
            run.cancel()
            return nobody_left()
        note_usage(request, run.usage)
        if run.error is not None:
            raise run.error
        return _json(run.body)

    @router.post("/v1/responses/input_tokens", openapi_extra=takes(TurnOptions))
    async def count_input_tokens(request: Request) -> Response:
        """How many tokens the prompt of a request would have."""
        body = await read_body(request, TurnOptions)
        service.check_model(body.model)
        prepared = await prepare_turn(service, body)
        count = len(render_prompt(prepared.turn, service.tokenizer))
        return _json({"object": "response.input_tokens", "input_tokens": count})

    @router.get("/v1/responses/{response_id}")
    async def retrieve_response(
        response_id: str, stream: bool = False, starting_after: int = -1
    ) -> Response:
        """A stored response; with `stream`, its events after a sequence number."""
        run = service.live.get(response_id)
        if run is not None and stream:
            return EventStream(_follow(service, run, starting_after))
        if run is not None:
            return _json(run.body)
        stored = await _stored(service, response_id)
        if stream:
            return EventStream(_stored_events(service, stored, starting_after))
        return _json(stored.body)

    @router.post("/v1/responses/{response_id}/cancel")
    async def cancel_response(response_id: str) -> Response:
        """End a response that runs; what there is of it is kept."""
        run = service.live.get(response_id)
        if run is not None:
            run.cancel()
            await asyncio.wait([run.task])
            return _json(run.body)
        stored = await _stored(service, response_id)
        if stored.status in UNFINISHED:  # another process runs it, and will find it ended
            body = cancelled(stored.body, stored.body["output"], None)
            await service.store.finish(replace(stored, status="cancelled", body=body))
            stored = await _stored(service, response_id)
        return _json(stored.body)

    @router.delete("/v1/responses/{response_id}")
    async def delete_response(response_id: str) -> Response:
        """Forget a stored response. One that runs is ended first."""
        run = service.live.get(response_id)
        if run is not None:
            run.cancel()
            await asyncio.wait([run.task])
        if not await service.store.delete(response_id):
            raise _missing(response_id)
        return _json({"id": response_id, "object": "response", "deleted": True})

    @router.get("/v1/responses/{response_id}/input_items")
    async def list_input_items(
        response_id: str, limit: int = 20, order: str = "desc", after: str | None = None
    ) -> Response:
        """The items that a response was asked with."""
        stored = await _stored(service, response_id)
        return _json(page_of(stored.input_items, limit=limit, order=order, after=after))

    return router


async def _watch(
    service: Service, run: ResponseRun, request: Request
) -> AsyncGenerator[bytes, None]:
    """The events for the client that asked for the response."""
    ended = False
    try:
        async for part in _follow(service, run, -1):
            yield part
        ended = True
    finally:
        if not (ended or run.is_background):
            run.cancel()
        note_usage(request, run.usage)


async def _follow(service: Service, run: ResponseRun, after: int) -> AsyncGenerator[bytes, None]:
    last = None
    async for events in run.log.follow():
        last = events[-1]
        wanted = [event for event in events if event["sequence_number"] > after]
        if wanted:
            yield b"".join(_sse(service, event) for event in wanted)
    if last is not None and last["sequence_number"] <= after:
        yield _sse(service, {**last, "sequence_number": after + 1})
    yield DONE


async def _stored_events(
    service: Service, stored: StoredResponse, after: int
) -> AsyncGenerator[bytes, None]:
    """Events of a response that has ended, or that runs in another process."""
    sent, is_ended = after, False
    while stored.background:
        running = stored.status in UNFINISHED  # known before its events, so that none is missed
        for number, data in await service.store.events(stored.id, sent):
            event = msgspec.json.decode(data)
            sent, is_ended = number, event["type"] in TERMINAL.values()
            yield _sse(service, event)
        if not running:
            break
        await asyncio.sleep(_POLL_SECONDS)
        stored = await _stored(service, stored.id)
    *events, last = replayed(stored.body)
    if not stored.background:
        for event in events:
            if event["sequence_number"] > after:
                sent = event["sequence_number"]
                yield _sse(service, event)
    if not is_ended:
        yield _sse(service, {**last, "sequence_number": sent + 1})
    yield DONE


def _sse(service: Service, event: JsonObject) -> bytes:
    return named_event(spelled(event, service.config.response_events))


async def _stored(service: Service, response_id: str) -> StoredResponse:
    stored = await service.store.get(response_id)
    if stored is None:
        raise _missing(response_id)
    return stored


def _missing(response_id: str) -> NotStored:
    return NotStored(
        f"There is no response {response_id[:80]!r} here; it was not stored, was deleted, or has "
        "expired.",
        param="response_id",
    )


async def _ended(waiting: asyncio.Future[None]) -> bool:
    await waiting
    return True


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
