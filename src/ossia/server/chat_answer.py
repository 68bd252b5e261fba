"""Deltas of a turn become the answers of Chat Completions, streamed or whole."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    ReasoningText,
    TextToken,
    TurnAssembler,
    VisibleText,
)
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.access_log import note_usage, request_id
from ossia.server.chat_loop import LoopChoice, LoopGeneration
from ossia.server.chat_tools import is_legacy
from ossia.server.generation import Choice, Generation
from ossia.server.logprobs import chat_logprobs
from ossia.server.schema.chat import ChatRequest
from ossia.server.sse import DONE, event
from ossia.server.turn_memory import ConversationKey, SentTurn, TurnMemory
from ossia.turn import ToolCall


@dataclass(slots=True)
class _Message:
    """What one choice has said so far: the fold of its deltas."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    calls: list[CallStart] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)  # of each call
    tokens: list[TextToken] = field(default_factory=list)
    reasoning_tokens: list[TextToken] = field(default_factory=list)

    def add(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            match delta:
                case ReasoningText(text, tokens):
                    self.reasoning.append(text)
                    self.reasoning_tokens += tokens
                case VisibleText(text, tokens):
                    self.content.append(text)
                    self.tokens += tokens
                case CallStart():
                    self.calls.append(delta)
                    self.arguments.append([])
                case CallArguments(index, text):
                    self.arguments[index].append(text)

    def tool_calls(self) -> list[ToolCall]:
        return [
            ToolCall(call.call_id, call.name, "".join(arguments))
            for call, arguments in zip(self.calls, self.arguments, strict=True)
        ]

    def as_sent(self, token_ids: Sequence[int], *, legacy: bool) -> SentTurn:
        calls = self.tool_calls()
        if legacy:
            calls = [ToolCall("", call.name, call.arguments) for call in calls]
        return SentTurn(token_ids, "".join(self.content), "".join(self.reasoning), calls)


class ChatAnswer:
    """The wire form of one answer. Turns that end by themselves go into the memory."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        body: ChatRequest,
        model: str,
        request: Request,
        memory: TurnMemory,
    ) -> None:
        self._tokenizer = tokenizer
        self._body = body
        self._legacy = is_legacy(body)
        self._include_reasoning = body.include_reasoning is not False
        self._request = request
        self._memory = memory
        self._messages: list[_Message] = []
        self._head = {
            "id": f"chatcmpl-{request_id(request)}",
            "created": int(time.time()),
            "model": model,
        }

    async def whole(
        self, generation: Generation | LoopGeneration, answered: ConversationKey
    ) -> Response:
        """The answer when all of it is there; `answered` is the conversation it belongs to."""
        async for _ in self._deltas(generation, answered):
            pass
        choices: Sequence[Choice | LoopChoice] = generation.choices
        bodies = [
            {
                "index": choice.index,
                "message": self._message(message),
                "logprobs": self._logprobs(message.tokens, message.reasoning_tokens),
                **self._finish(choice),
            }
            for choice, message in zip(choices, self._messages, strict=True)
        ]
        note_usage(self._request, generation.usage)
        body = {
            **self._head,
            "object": "chat.completion",
            "choices": bodies,
            "usage": generation.usage.body(),
        }
        return Response(msgspec.json.encode(body), media_type="application/json")

    async def stream(
        self, generation: Generation | LoopGeneration, answered: ConversationKey
    ) -> AsyncGenerator[bytes, None]:
        """Events of the answer as it is written."""
        head: dict[str, Any] = {**self._head, "object": "chat.completion.chunk"}
        if self._body.wants_usage():
            head["usage"] = None
        begun = [False] * len(generation.choices)
        try:
            async for choice, deltas in self._deltas(generation, answered):
                delta = self._delta(deltas)
                ended = choice.assembler.finish_reason is not None
                if (delta or ended) and not begun[choice.index]:
                    begun[choice.index] = True
                    delta = {"role": "assistant", "content": None, **delta}
                body: dict[str, Any] = {"index": choice.index, "delta": delta}
                if delta:
                    more = {"logprobs": self._logprobs_of(deltas), "finish_reason": None}
                    yield event({**head, "choices": [body | more]})
                if ended:  # a chunk of its own: readers take a call for complete when it comes
                    end = {"delta": {}, "logprobs": None, **self._finish(choice)}
                    yield event({**head, "choices": [body | end]})
            if self._body.wants_usage():
                yield event({**head, "choices": [], "usage": generation.usage.body()})
            yield DONE
        finally:
            note_usage(self._request, generation.usage)

    async def _deltas(
        self, generation: Generation | LoopGeneration, answered: ConversationKey
    ) -> AsyncGenerator[tuple[Choice | LoopChoice, list[Delta]], None]:
        """What `generation` brings; each turn is folded, and remembered before its end is sent."""
        self._messages = [_Message() for _ in generation.choices]
        running: AsyncGenerator[tuple[Choice | LoopChoice, list[Delta]], None] = generation.run()
        try:
            async for choice, deltas in running:
                message, assembler = self._messages[choice.index], choice.assembler
                message.add(deltas)
                if isinstance(assembler, TurnAssembler) and assembler.is_whole:
                    turn = message.as_sent(assembler.token_ids, legacy=self._legacy)
                    self._memory.remember(answered, turn)
                yield choice, deltas
        finally:
            await running.aclose()

    def _message(self, message: _Message) -> dict[str, Any]:
        """The `message` of a choice; content is null where nothing was said to the user."""
        body: dict[str, Any] = {"role": "assistant", "content": "".join(message.content) or None}
        if self._include_reasoning and message.reasoning:
            body["reasoning"] = body["reasoning_content"] = "".join(message.reasoning)
        calls = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in message.tool_calls()
        ]
        if calls and self._legacy:
            body["function_call"] = calls[0]["function"]
        elif calls:
            body["tool_calls"] = calls
        return body

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
        if self._legacy and (calls := body.pop("tool_calls", [])):
            body["function_call"] = calls[0]["function"]
        return body

    def _finish(self, choice: Choice | LoopChoice) -> dict[str, Any]:
        """Why the choice ended, null while it has not, and what there is to say about it."""
        reason: str | None = choice.assembler.finish_reason
        if reason == "tool_calls" and self._legacy:
            reason = "function_call"
        details = choice.assembler.finish_details
        if details is None:
            return {"finish_reason": reason}
        return {"finish_reason": reason, "finish_details": details.body()}

    def _logprobs_of(self, deltas: Sequence[Delta]) -> dict[str, Any] | None:
        visible = [t for d in deltas if isinstance(d, VisibleText) for t in d.tokens]
        thought = [t for d in deltas if isinstance(d, ReasoningText) for t in d.tokens]
        if not (visible or (thought and self._body.include_reasoning_logprobs)):
            return None
        return self._logprobs(visible, thought)

    def _logprobs(
        self, visible: Sequence[TextToken], thought: Sequence[TextToken]
    ) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        body: dict[str, Any] = {
            "content": chat_logprobs(self._tokenizer, visible),
            "refusal": None,
        }
        if self._body.include_reasoning_logprobs and self._include_reasoning:
            body["reasoning"] = chat_logprobs(self._tokenizer, thought)
        return body
