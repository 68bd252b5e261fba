"""What each kind of message becomes in a turn."""

from __future__ import annotations

from typing import Any

import pytest

from ossia.errors import InvalidRequest
from ossia.server.chat_messages import conversation_items
from ossia.server.schema.messages import ChatMessage
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def items(*messages: dict[str, Any]) -> list[Item]:
    return list(conversation_items([ChatMessage.model_validate(m) for m in messages]))


def test_instructions_may_stand_anywhere() -> None:
    assert items(
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hello"},
        {"role": "system", "content": "Be wise."},
    ) == [
        Instructions("Be brief."),
        Instructions("Be kind."),
        UserMessage("Hello"),
        Instructions("Be wise."),
    ]


def test_a_name_is_told_before_the_text() -> None:
    assert items(
        {"role": "system", "name": "example_user", "content": "Hi"},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hello"}]},
        {"role": "assistant", "name": "bot", "content": "Hi."},
        {"role": "user", "name": "", "content": "Bye"},
    ) == [
        Instructions("example_user: Hi"),
        UserMessage("ann: Hello"),
        AssistantMessage("Hi."),
        UserMessage("Bye"),
    ]


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
def test_reasoning_is_read_under_both_names(field: str) -> None:
    assert items({"role": "assistant", "content": "Four.", field: "Two and two."}) == [
        Reasoning("Two and two."),
        AssistantMessage("Four."),
    ]


def test_content_beside_calls_is_a_preamble() -> None:
    message = {"role": "assistant", "content": "A moment.", "tool_calls": [CALL]}
    assert items(message) == [
        AssistantMessage("A moment.", "commentary"),
        ToolCall("c1", "f", "{}"),
    ]


@pytest.mark.parametrize(
    "message",
    [
        {"content": None},
        {"content": ""},
        {"content": []},
        {},
        {"content": None, "refusal": None, "tool_calls": [], "audio": None, "function_call": None},
    ],
)
def test_an_assistant_message_that_says_nothing_is_left_out(message: dict[str, Any]) -> None:
    assert items({"role": "assistant", **message}) == []


def test_a_refusal_is_what_the_assistant_said() -> None:
    part = {"type": "refusal", "refusal": "I will not."}
    expected = [AssistantMessage("I will not.")]
    assert items({"role": "assistant", "content": [part]}) == expected
    assert items({"role": "assistant", "content": None, "refusal": "I will not."}) == expected


def test_results_may_come_in_any_order_and_be_empty() -> None:
    other = {**CALL, "id": "c2", "function": {"name": "g", "arguments": "{}"}}
    assert items(
        {"role": "assistant", "tool_calls": [CALL, other]},
        {"role": "tool", "tool_call_id": "c2", "content": None},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "Sun."}]},
    )[2:] == [ToolResult("c2", "g", ""), ToolResult("c1", "f", "Sun.")]


def test_the_older_form_has_no_ids() -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    assert items(
        {"role": "assistant", "content": "Wait.", "function_call": call},
        {"role": "function", "name": "f", "content": "Done."},
    ) == [
        AssistantMessage("Wait.", "commentary"),
        ToolCall("", "f", '{"a": 1}'),
        ToolResult("", "f", "Done."),
    ]


def test_parts_are_joined_by_line_breaks() -> None:
    parts = [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    assert items({"role": "user", "content": parts}) == [UserMessage("One.\nTwo.")]


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
FILE = {"type": "file", "file": {"file_id": "x"}}


@pytest.mark.parametrize("part", [IMAGE, AUDIO, FILE])
def test_what_is_not_text_is_refused_with_its_path(part: dict[str, Any]) -> None:
    parts = [{"type": "text", "text": "See:"}, part]
    with pytest.raises(InvalidRequest, match="reads text only") as refused:
        items({"role": "system", "content": "x"}, {"role": "user", "content": parts})
    assert refused.value.param == "messages[1].content[1].type"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": None}, "content"),
        ({"role": "system"}, "content"),
        ({"role": "user", "content": "x", "name": "a\nb"}, "name"),
        ({"role": "user", "content": "x", "name": "a" * 257}, "name"),
        ({"role": "assistant", "audio": {"id": "audio_1"}}, "audio"),
        ({"role": "assistant", "tool_calls": [{"id": "c"}]}, "tool_calls[0].function"),
        (
            {"role": "assistant", "tool_calls": [{"id": "c", "type": "custom"}]},
            "tool_calls[0].type",
        ),
        (
            {"role": "assistant", "function_call": {"name": "a b", "arguments": ""}},
            "function_call.name",
        ),
        ({"role": "tool", "content": "x"}, "tool_call_id"),
        ({"role": "tool", "content": "x", "tool_call_id": "unknown"}, "tool_call_id"),
        ({"role": "function", "content": "x"}, "name"),
        ({"role": "function", "content": "x", "name": "unknown"}, "name"),
    ],
)
def test_a_message_without_its_parts_is_refused(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        items(message)
    assert refused.value.param == f"messages[0].{param}"
    assert refused.value.message.endswith(".")
