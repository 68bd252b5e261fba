"""POST /tokenize and /detokenize: token ids of texts and conversations."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ossia.errors import InvalidRequest
from ossia.harmony.prompt import render_prompt
from ossia.server.body import read_body
from ossia.server.chat_turn import chat_turn
from ossia.server.openapi import takes
from ossia.server.schema.tokenization import DetokenizeRequest, TokenizeRequest
from ossia.server.service import Service


def tokenization_router(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter()

    @router.post("/tokenize", response_class=JSONResponse, openapi_extra=takes(TokenizeRequest))
    async def tokenize(request: Request) -> Response:
        """Token ids of a text, or of the prompt that a conversation becomes."""
        body = await read_body(request, TokenizeRequest)
        service.check_model(body.model)
        tokens = _tokens(service, body)
        return JSONResponse(
            {
                "tokens": tokens,
                "count": len(tokens),
                "max_model_len": service.engine.info.max_model_len,
            }
        )

    @router.post("/detokenize", response_class=JSONResponse, openapi_extra=takes(DetokenizeRequest))
    async def detokenize(request: Request) -> Response:
        """Text of token ids."""
        body = await read_body(request, DetokenizeRequest)
        service.check_model(body.model)
        for index, token in enumerate(body.tokens):
            if not 0 <= token < service.tokenizer.vocab_size:
                raise InvalidRequest(
                    f"tokens[{index}] must be a token id, 0 to {service.tokenizer.vocab_size - 1}.",
                    param=f"tokens[{index}]",
                )
        return JSONResponse({"text": service.tokenizer.decode(body.tokens)})

    return router


def _tokens(service: Service, body: TokenizeRequest) -> list[int]:
    text = body.text if body.text is not None else body.prompt
    if (text is None) == (body.messages is None):
        raise InvalidRequest("Send either text or messages.", param="text")
    if text is not None:
        return service.tokenizer.encode(text)
    turn = chat_turn(body.messages or (), body, service.date())
    items = service.memory.recall(turn.items).items
    return render_prompt(dataclasses.replace(turn, items=items), service.tokenizer)
