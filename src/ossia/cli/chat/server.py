"""Answers from a server, over the Chat Completions API."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any

import httpx

from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText
from ossia.cli.wire import (
    Delta,
    FunctionDelta,
    StreamChunk,
    ToolCallDelta,
    error_message,
    parse_event,
)
from ossia.errors import OssiaError, StartupError
from ossia.sampling import SamplingParams
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Turn,
    UserMessage,
)

_CONNECT_TIMEOUT = 5.0  # seconds; answers themselves may take as long as they need


class ServerBackend:
    """Asks the server at `url`, such as http://127.0.0.1:8000.

    Without `model`, the first one that the server lists is used.

    Raises:
        StartupError: no server there, or it refuses the key.
    """

    def __init__(
        self,
        url: str,
        *,
        sampling: SamplingParams,
        model: str | None = None,
        api_key: str | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        self._sampling = sampling
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT)
        )
        self.name = model or self._first_model()

    def answer(self, turn: Turn) -> Generator[ChatEvent]:
        """Stream one chat completion."""
        body: dict[str, Any] = {
            "model": self.name,
            "messages": wire_messages(turn.items),
            "reasoning_effort": turn.effort.value,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": self._sampling.temperature,
        }
        if self._sampling.max_tokens is not None:
            body["max_completion_tokens"] = self._sampling.max_tokens
        if turn.tools:
            body["tools"] = [_wire_tool(tool) for tool in turn.tools]
        try:
            with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.is_error:
                    response.read()
                    raise OssiaError(_refusal(response))
                yield from read_stream(response.iter_lines())
        except httpx.HTTPError as error:
            raise OssiaError(f"The connection to {self._url} broke: {error}.") from error

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _first_model(self) -> str:
        try:
            response = self._http.get("/v1/models", timeout=_CONNECT_TIMEOUT)
        except httpx.HTTPError as error:
            raise StartupError(
                f"No server answers at {self._url}; start one with `ossia serve`, "
                "or leave --url out to run the model here."
            ) from error
        if response.is_error:
            raise StartupError(_refusal(response))
        try:
            return str(response.json()["data"][0]["id"])
        except (ValueError, LookupError, TypeError) as error:
            raise StartupError(
                f"{self._url} lists no models; is it an OpenAI-compatible server?"
            ) from error


def read_stream(lines: Iterable[str]) -> Iterator[ChatEvent]:
    """The events of a chat completion's server-sent `lines`; `Finished` comes last, always.

    Raises:
        OssiaError: the server reported an error, or the stream ended early.
    """
    calls: dict[int, Call] = {}  # by index, in order of appearance
    reason: str | None = None
    tokens = 0
    for line in lines:
        chunk = _chunk(line)
        if chunk is None:
            continue
        if chunk.error:
            raise OssiaError(error_message(chunk.error))
        if chunk.usage:
            tokens = chunk.usage.completion_tokens
        for choice in chunk.choices or ():
            delta = choice.delta or Delta()
            if reasoning := delta.reasoning or delta.reasoning_content:
                yield ReasoningText(reasoning)
            if delta.content:
                yield AnswerText(delta.content)
            for part in delta.tool_calls or ():
                calls[part.index] = _joined(calls.get(part.index, Call("", "", "")), part)
            reason = choice.finish_reason or reason
    if reason is None:
        raise OssiaError("The server ended the stream before the answer was finished.")
    yield from calls.values()
    yield Finished(reason, tokens)


def _chunk(line: str) -> StreamChunk | None:
    try:
        return parse_event(line.encode())
    except ValueError as error:
        raise OssiaError(f"The server sent what is not a chat completion: {error}.") from error


def _joined(call: Call, part: ToolCallDelta) -> Call:
    function = part.function or FunctionDelta()
    return Call(
        part.id or call.call_id,
        call.name + (function.name or ""),
        call.arguments + (function.arguments or ""),
    )


def wire_messages(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Chat Completions messages; what one assistant turn said and called becomes one message."""
    messages: list[dict[str, Any]] = []
    for item in items:
        match item:
            case Instructions(text):
                messages.append({"role": "system", "content": text})
            case UserMessage(text):
                messages.append({"role": "user", "content": text})
            case ToolResult(call_id, _, output):
                messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
            case Reasoning(text):
                _assistant(messages)["reasoning"] = text
            case AssistantMessage(text):
                _assistant(messages)["content"] = text
            case ToolCall(call_id, name, arguments):
                function = {"name": name, "arguments": arguments}
                call = {"id": call_id, "type": "function", "function": function}
                _assistant(messages).setdefault("tool_calls", []).append(call)
    return messages


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any]:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    return messages[-1]


def _wire_tool(tool: ToolDefinition) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "description": tool.description}
    if tool.parameters is not None:
        function["parameters"] = dict(tool.parameters)
    return {"type": "function", "function": function}


def _refusal(response: httpx.Response) -> str:
    try:
        message = error_message(response.json()["error"])
    except (ValueError, LookupError, TypeError):
        message = f"The server answered with status {response.status_code}."
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message += " Give the key with --api-key."
    return message
