"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    ReasoningText,
    TurnAssembler,
    VisibleText,
    VisibleToken,
)
from ossia.errors import InvalidRequest
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.access_log import note_usage, request_id
from ossia.server.body import read_body
from ossia.server.chat_turn import chat_turn
from ossia.server.generation import Generation
from ossia.server.logprobs import chat_logprobs
from ossia.server.openapi import takes
from ossia.server.schema.chat import ChatRequest
from ossia.server.service import Service
from ossia.server.sse import DONE, EventStream, event, nobody_left, unless_client_leaves


def chat_router(service: Service) -> APIRouter:
    """The route of this file."""
    router = APIRouter()

    @router.post("/v1/chat/completions", openapi_extra=takes(ChatRequest))
    async def chat_completions(request: Request) -> Response:
        """Continue a conversation: reasoning, then an answer or a tool call."""
        body = await read_body(request, ChatRequest)
        generation = _start(service, body, request_id(request))
        answer = _Answer(service.tokenizer, body, service.check_model(body.model), request)
        if body.stream:
            return EventStream(answer.stream(generation))
        whole = await unless_client_leaves(request, answer.whole(generation))
        return nobody_left() if whole is None else whole

    return router


def _start(service: Service, body: ChatRequest, identifier: str) -> Generation:
    """Put the request into the engine, or refuse it."""
    service.check_model(body.model)
    _refuse_unsupported(body)
    turn = chat_turn(body.messages, body, service.date())
    n, stop = body.choices(), body.stop_strings()
    wanted = body.max_completion_tokens
    params = body.sampling(
        max_tokens=body.max_tokens if wanted is None else wanted,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )
    service.admit(n)
    prompt = render_prompt(turn, service.tokenizer)
    names = tuple(tool.name for tool in turn.tools)
    generation = Generation(service.engine, service.metrics, identifier)
    assemblers = [TurnAssembler(service.tokenizer, names, stop) for _ in range(n)]
    generation.add(prompt, params, assemblers)
    return generation


def _refuse_unsupported(body: ChatRequest) -> None:
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true.", param="top_logprobs")
    kind = body.response_format.type if body.response_format else "text"
    if kind in ("json_object", "json_schema"):
        raise InvalidRequest(
            f"This server cannot enforce response_format {kind} yet: that comes with the turn "
            "grammar; use type text and describe the form in the messages.",
            param="response_format",
            code="unsupported_value",
        )
    if kind != "text":
        raise InvalidRequest("response_format.type must be text.", param="response_format.type")


@dataclass(slots=True)
class _Message:
    """What one choice has said so far: the fold of its deltas."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)  # of each call
    tokens: list[VisibleToken] = field(default_factory=list)

    def add(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            match delta:
                case ReasoningText(text):
                    self.reasoning.append(text)
                case VisibleText(text, tokens):
                    self.content.append(text)
                    self.tokens += tokens
                case CallStart(_, call_id, name):
                    function = {"name": name, "arguments": ""}
                    self.calls.append({"id": call_id, "type": "function", "function": function})
                    self.arguments.append([])
                case CallArguments(index, text):
                    self.arguments[index].append(text)

    def body(self, *, include_reasoning: bool) -> dict[str, Any]:
        """The `message` of a choice; content is null where nothing was said to the user."""
        body: dict[str, Any] = {"role": "assistant", "content": "".join(self.content) or None}
        if include_reasoning and self.reasoning:
            body["reasoning"] = body["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            for call, arguments in zip(self.calls, self.arguments, strict=True):
                call["function"]["arguments"] = "".join(arguments)
            body["tool_calls"] = self.calls
        return body


class _Answer:
    """The wire form of one answer, streamed or whole."""

    def __init__(
        self, tokenizer: Tokenizer, request_body: ChatRequest, model: str, request: Request
    ) -> None:
        self._tokenizer = tokenizer
        self._body = request_body
        self._include_reasoning = request_body.include_reasoning is not False
        self._request = request
        self._head = {
            "id": f"chatcmpl-{request_id(request)}",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(self, generation: Generation) -> Response:
        messages = [_Message() for _ in generation.choices]
        async for choice, deltas in generation.run():
            messages[choice.index].add(deltas)
        choices = [
            {
                "index": choice.index,
                "message": message.body(include_reasoning=self._include_reasoning),
                "logprobs": self._logprobs(message.tokens),
                "finish_reason": choice.assembler.finish_reason,
            }
            for choice, message in zip(generation.choices, messages, strict=True)
        ]
        usage = generation.usage
        note_usage(self._request, usage)
        body = {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": usage.body(),
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def stream(self, generation: Generation) -> AsyncGenerator[bytes, None]:
        head: dict[str, Any] = {**self._head, "object": "chat.completion.chunk"}
        if self._body.wants_usage():
            head["usage"] = None
        begun = [False] * len(generation.choices)
        try:
            async for choice, deltas in generation.run():
                finish = choice.assembler.finish_reason
                delta = self._delta(deltas)
                if not (delta or finish):
                    continue
                if not begun[choice.index]:
                    begun[choice.index] = True
                    delta = {"role": "assistant", "content": "", **delta}
                tokens = [t for d in deltas if isinstance(d, VisibleText) for t in d.tokens]
                body = {
                    "index": choice.index,
                    "delta": delta,
                    "logprobs": self._logprobs(tokens) if tokens else None,
                    "finish_reason": finish,
                }
                yield event({**head, "choices": [body]})
            if self._body.wants_usage():
                yield event({**head, "choices": [], "usage": generation.usage.body()})
            yield DONE
        finally:
            note_usage(self._request, generation.usage)

    def _delta(self, deltas: Sequence[Delta]) -> dict[str, Any]:
        body: dict[str, Any] = {}
        for delta in deltas:
            match delta:
                case ReasoningText(text):
                    if self._include_reasoning:
                        body["reasoning"] = body.get("reasoning", "") + text
                case VisibleText(text):
                    body["content"] = body.get("content", "") + text
                case CallStart(index, call_id, name):
                    function = {"name": name, "arguments": ""}
                    call = {"index": index, "id": call_id, "type": "function", "function": function}
                    body.setdefault("tool_calls", []).append(call)
                case CallArguments(index, text):
                    calls = body.setdefault("tool_calls", [])
                    if calls and calls[-1]["index"] == index:
                        calls[-1]["function"]["arguments"] += text
                    else:
                        calls.append({"index": index, "function": {"arguments": text}})
        if "reasoning" in body:
            body["reasoning_content"] = body["reasoning"]
        return body

    def _logprobs(self, tokens: Sequence[VisibleToken]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return {"content": chat_logprobs(self._tokenizer, tokens), "refusal": None}
