"""POST /v1/responses/compact: a long conversation made short, by the model itself.

All of it becomes one item, sealed like reasoning, that holds what the developer said, word for
word, and the model's summary of everything else.
"""

from __future__ import annotations

import dataclasses
import time

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.answer.assembler import VisibleText
from ossia.errors import InvalidRequest
from ossia.sampling import SamplingParams
from ossia.server.access_log import note_usage, request_id
from ossia.server.body import read_body
from ossia.server.openapi import takes
from ossia.server.responses.body import usage_body
from ossia.server.responses.identifiers import new_id
from ossia.server.responses.prepare import RESPONSES_PATHS, prepare_turn
from ossia.server.schema.responses import CompactRequest, TurnOptions
from ossia.server.service import Service
from ossia.server.sse import nobody_left, unless_client_leaves
from ossia.server.tool_loop import LoopLimits, ToolLoop
from ossia.server.toolset import Toolset
from ossia.turn import Instructions, ToolChoice, UserMessage

MAX_SUMMARY_TOKENS = 2_048  # reasoning included; at most a quarter of the context
SUMMARY_HEAD = "Summary of the conversation so far:\n\n"
_TASK = (
    "Summarize our conversation so far for whoever continues it: what was asked for, what was "
    "found out and decided, names, numbers and file names that matter, and what is left to do."
)


def compact_router(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter()

    @router.post("/v1/responses/compact", openapi_extra=takes(CompactRequest))
    async def compact(request: Request) -> Response:
        """Make a conversation shorter; its output is the input of what follows."""
        body = await read_body(request, CompactRequest)
        if body.model is None:
            raise InvalidRequest(
                "model is required.", param="model", code="missing_required_parameter"
            )
        service.check_model(body.model)
        made = await unless_client_leaves(request, _compacted(service, body, request))
        return nobody_left() if made is None else made

    return router


async def _compacted(service: Service, body: CompactRequest, request: Request) -> Response:
    options = TurnOptions(
        model=body.model,
        input=body.input,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        conversation=None,
        tools=[],
        tool_choice=None,
        parallel_tool_calls=None,
        truncation=None,
    )
    prepared = await prepare_turn(service, options)
    turn = dataclasses.replace(
        prepared.turn,
        items=(*prepared.turn.items, UserMessage(_TASK)),
        tool_choice=ToolChoice(),
    )
    room = service.engine.info.max_model_len
    loop = ToolLoop(
        service,
        request_id(request),
        turn,
        Toolset(),
        SamplingParams(),
        session=request_id(request),
        limits=LoopLimits(min(MAX_SUMMARY_TOKENS, room // 4), truncate=True),
        paths=RESPONSES_PATHS,
    )
    await loop.start()
    running = loop.run()
    try:
        texts = [event.text async for event in running if isinstance(event, VisibleText)]
    finally:
        await running.aclose()
        await loop.stop()
        note_usage(request, loop.usage)
    said = (*prepared.history.items, *prepared.new_items)
    kept = [item for item in said if isinstance(item, Instructions)]
    summary = UserMessage(SUMMARY_HEAD + "".join(texts))
    item = {
        "id": new_id("cmp"),
        "type": "compaction",
        "encrypted_content": service.seal.seal_items([*kept, summary]),
    }
    return Response(
        msgspec.json.encode(
            {
                "id": new_id("resp"),
                "object": "response.compaction",
                "created_at": int(time.time()),
                "output": [item],
                "usage": usage_body(loop.usage),
            }
        ),
        media_type="application/json",
    )
