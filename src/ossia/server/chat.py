"""POST /v1/chat/completions: from the request to sequences that run."""

from __future__ import annotations

import dataclasses

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.answer.assembler import TurnAssembler
from ossia.engine.messages import Constraint
from ossia.errors import InvalidRequest, RequestError, of_field
from ossia.harmony.grammar import CHAT_PATHS, FieldPaths
from ossia.harmony.prompt import render_prompt
from ossia.server.access_log import request_id
from ossia.server.body import read_body
from ossia.server.chat_answer import ChatAnswer
from ossia.server.chat_loop import LoopGeneration, asks_for_server_tools, chat_tools
from ossia.server.chat_refusals import refuse_unsupported, refuse_without_grammar
from ossia.server.chat_tools import is_legacy
from ossia.server.chat_turn import chat_turn
from ossia.server.generation import Generation
from ossia.server.openapi import takes
from ossia.server.schema.chat import ChatRequest
from ossia.server.service import Service
from ossia.server.sse import EventStream, nobody_left, unless_client_leaves
from ossia.server.tool_loop import LoopLimits, ToolLoop
from ossia.server.turn_memory import ConversationKey
from ossia.turn import Turn

_LEGACY_PATHS = FieldPaths(tool_parameters="functions[{index}].parameters")


def chat_router(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter()

    @router.post("/v1/chat/completions", openapi_extra=takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Continue a conversation: reasoning, then an answer or calls of functions."""
        body = await read_body(request, ChatRequest)
        model = service.check_model(body.model)
        # Compiling a grammar can take a while; a client that leaves meanwhile costs no more.
        starting = _start(service, body, request_id(request))
        started = await unless_client_leaves(request, starting)
        if started is None:
            return nobody_left()
        generation, key = started
        answer = ChatAnswer(service.tokenizer, body, model, request, service.memory)
        if body.stream:
            return EventStream(answer.stream(generation, key))
        whole = await unless_client_leaves(request, answer.whole(generation, key))
        return nobody_left() if whole is None else whole

    return router


async def _start(
    service: Service, body: ChatRequest, identifier: str
) -> tuple[Generation | LoopGeneration, ConversationKey]:
    """Put the request into the engine, or refuse it."""
    refuse_unsupported(body)
    if asks_for_server_tools(body):
        return await _start_loop(service, body, identifier)
    n, stop = body.choices(), body.stop_strings()
    wanted = body.max_completion_tokens
    params = body.sampling(
        max_tokens=body.max_tokens if wanted is None else wanted,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    service.admit(n)  # before the work of compiling, and again when that is done
    turn, constraint = await _constrained(service, body)
    recalled = service.memory.recall(turn.items)
    turn = dataclasses.replace(turn, items=recalled.items)
    service.admit(n)
    prompt = render_prompt(turn, service.tokenizer)
    names = tuple(tool.name for tool in turn.tools)
    generation = Generation(service.engine, service.metrics, identifier)
    assemblers = [TurnAssembler(service.tokenizer, names, stop) for _ in range(n)]
    try:
        generation.add(prompt, params, assemblers, constraint)
    except RequestError as error:
        raise of_field(error, "max_tokens" if wanted is None else "max_completion_tokens") from None
    return generation, recalled.key


async def _start_loop(
    service: Service, body: ChatRequest, identifier: str
) -> tuple[LoopGeneration, ConversationKey]:
    """The same for a request with tools that the server runs."""
    for name, given in (
        ("n", body.choices() > 1),
        ("stop", body.stop),
        ("logprobs", body.logprobs),
        ("functions", body.functions),
        ("ignore_eos", body.ignore_eos),
    ):
        if given:
            raise InvalidRequest(
                f"{name} cannot be combined with tools that the server runs; leave one out.",
                param=name,
            )
    tools = await chat_tools(body, service.tools)
    plain = body.model_copy(update={"tools": None, "tool_choice": None})
    turn = dataclasses.replace(
        chat_turn(body.messages, plain, service.date()),
        tools=tools.toolset.definitions,
        builtins=tools.toolset.builtins,
        tool_choice=tools.toolset.choice,
    )
    wanted = body.max_completion_tokens
    loop = ToolLoop(
        service,
        identifier,
        turn,
        tools.toolset,
        body.sampling(max_tokens=None, logprobs=None),
        session=identifier,
        limits=LoopLimits(
            max_output_tokens=body.max_tokens if wanted is None else wanted,
            max_reasoning_tokens=body.max_reasoning_tokens,
        ),
        paths=CHAT_PATHS,
    )
    try:
        await loop.start()
    except RequestError as error:
        raise of_field(error, "max_tokens" if wanted is None else "max_completion_tokens") from None
    return LoopGeneration(loop, tools.toolset), b""


async def _constrained(service: Service, body: ChatRequest) -> tuple[Turn, Constraint | None]:
    """What the request asks for, and what the grammar lets the model say."""
    date = service.date()
    if service.grammars is None or body.ignore_eos:
        refuse_without_grammar(body, "ignore_eos" if service.grammars else "--turn-grammar off")
        return chat_turn(body.messages, body, date), None
    return await service.grammars.constrain(
        lambda: chat_turn(body.messages, body, date),
        at_once=not (body.tools or body.functions or body.response_format),
        max_reasoning_tokens=body.max_reasoning_tokens,
        paths=_LEGACY_PATHS if is_legacy(body) else CHAT_PATHS,
    )
