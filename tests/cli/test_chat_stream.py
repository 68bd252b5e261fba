"""Reading a chat completion from the wire, and writing a conversation to it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText
from ossia.cli.chat.server import read_stream, wire_messages
from ossia.errors import OssiaError
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)


def events(*chunks: dict[str, Any], done: bool = True) -> list[ChatEvent]:
    lines = [line for chunk in chunks for line in (f"data: {json.dumps(chunk)}", "")]
    return list(read_stream([": comment", *lines, *(["data: [DONE]", ""] if done else [])]))


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}}


def test_reasoning_text_and_usage() -> None:
    assert events(
        delta(role="assistant", content=""),
        delta(reasoning="Hm", reasoning_content="Hm"),
        delta(reasoning_content="m"),
        delta(content="Yes"),
        delta("stop"),
        USAGE,
    ) == [ReasoningText("Hm"), ReasoningText("m"), AnswerText("Yes"), Finished("stop", 7)]


def test_calls_are_joined_from_their_pieces() -> None:
    def piece(index: int, **fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, **fields}])

    assert events(
        piece(0, id="a", type="function", function={"name": "f", "arguments": ""}),
        piece(0, function={"arguments": '{"x"'}),
        piece(1, id="b", function={"name": "g", "arguments": "{}"}),
        piece(0, function={"arguments": ": 1}"}),
        delta("tool_calls"),
        USAGE,
    ) == [Call("a", "f", '{"x": 1}'), Call("b", "g", "{}"), Finished("tool_calls", 7)]


def test_nulls_of_other_servers_are_no_trouble() -> None:
    assert events(
        {"choices": [{"delta": {"content": None, "tool_calls": None}}], "usage": None},
        delta("stop", content="x"),
    ) == [AnswerText("x"), Finished("stop", 0)]


def test_an_error_in_the_stream_is_raised_with_its_sentence() -> None:
    with pytest.raises(OssiaError, match=r"^The engine died\.$"):
        events(delta(content="x"), {"error": {"message": "The engine died.", "type": "x"}})


def test_a_stream_that_breaks_off_is_an_error() -> None:
    with pytest.raises(OssiaError, match="before the answer was finished"):
        events(delta(content="x"), done=False)


def test_something_else_than_chunks_is_an_error() -> None:
    with pytest.raises(OssiaError, match="not a chat completion"):
        list(read_stream(["data: <html>"]))


def test_one_turn_of_the_assistant_is_one_message() -> None:
    messages = wire_messages(
        (
            Instructions("Be brief."),
            UserMessage("6*7?"),
            Reasoning("Use it."),
            AssistantMessage("Wait.", "commentary"),
            ToolCall("c1", "calculator", "{}"),
            ToolCall("c2", "time", "{}"),
            ToolResult("c1", "calculator", "42"),
            ToolResult("c2", "time", "noon"),
            AssistantMessage("42 at noon."),
        )
    )
    call = {"id": "c1", "type": "function", "function": {"name": "calculator", "arguments": "{}"}}
    assert [message["role"] for message in messages] == [
        *("system", "user", "assistant", "tool", "tool", "assistant"),
    ]
    assert messages[2]["reasoning"] == "Use it."
    assert messages[2]["content"] == "Wait."
    assert messages[2]["tool_calls"][0] == call
    assert messages[3] == {"role": "tool", "tool_call_id": "c1", "content": "42"}
    assert messages[5] == {"role": "assistant", "content": "42 at noon."}
