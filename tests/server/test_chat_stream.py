"""Streams of POST /v1/chat/completions: the SDK's view and the bytes on the wire."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

HELLO = [{"role": "user", "content": "Hello"}]


def chunks(client: OpenAI, **fields: Any) -> list[ChatCompletionChunk]:
    fields = {"model": "scripted", "messages": HELLO, "temperature": 0, "max_tokens": 60, **fields}
    return list(client.chat.completions.create(stream=True, **fields))


def text(parts: list[ChatCompletionChunk], field: str, index: int = 0) -> str:
    deltas = [c.delta for part in parts for c in part.choices if c.index == index]
    return "".join(getattr(delta, field, None) or "" for delta in deltas)


def test_the_stream_joined_is_the_whole_answer(openai_client: OpenAI, script: Any) -> None:
    parts = chunks(openai_client, **script.think_first)
    assert text(parts, "reasoning") == text(parts, "reasoning_content") == script.reasoning
    assert text(parts, "content") == script.answer
    assert parts[0].choices[0].delta.role == "assistant"
    assert all(part.choices[0].delta.role is None for part in parts[1:])
    assert [p.choices[0].finish_reason for p in parts if p.choices[0].finish_reason] == ["stop"]
    assert parts[-1].choices[0].finish_reason == "stop"
    assert len({part.id for part in parts}) == 1


def test_a_tool_call_starts_with_its_name_and_goes_on_with_its_arguments(
    openai_client: OpenAI, script: Any
) -> None:
    parts = chunks(openai_client, tools=[script.tool], logit_bias=script.call)
    calls = [call for p in parts for call in p.choices[0].delta.tool_calls or ()]
    assert calls[0].id
    assert calls[0].type == "function"
    assert all(call.index == 0 for call in calls)
    assert [call.function.name for call in calls if call.function and call.function.name] == [
        "weather"
    ]
    assert (
        "".join(call.function.arguments or "" for call in calls if call.function)
        == script.arguments
    )
    assert text(parts, "content") == ""
    assert parts[-1].choices[0].finish_reason == "tool_calls"


def test_the_sdk_accumulates_a_call(openai_client: OpenAI, script: Any) -> None:
    with openai_client.chat.completions.stream(
        model="scripted",
        messages=[{"role": "user", "content": "Hello"}],
        tools=[script.tool],  # type: ignore[list-item]
        temperature=0,
        logit_bias={key: int(bias) for key, bias in script.call.items()},
    ) as stream:
        completion = stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.arguments == script.arguments


def test_usage_comes_last_if_asked_for(openai_client: OpenAI, script: Any) -> None:
    options = {"include_usage": True}
    parts = chunks(openai_client, stream_options=options, **script.think_first)
    assert parts[-1].choices == []
    assert parts[-1].usage is not None
    assert parts[-1].usage.completion_tokens_details is not None
    assert parts[-1].usage.completion_tokens_details.reasoning_tokens == 3
    assert all(part.usage is None for part in parts[:-1])


def test_text_that_may_begin_a_stop_string_is_withheld(openai_client: OpenAI, script: Any) -> None:
    parts = chunks(openai_client, logit_bias=script.final_only, stop=["bird is \U0001f9a9"])
    assert text(parts, "content") == "The "
    assert not any("bird" in (part.choices[0].delta.content or "") for part in parts)
    assert parts[-1].choices[0].finish_reason == "stop"


def test_no_chunk_has_half_a_character(openai_client: OpenAI, script: Any) -> None:
    parts = chunks(openai_client, logit_bias=script.final_only, logprobs=True)
    assert not any("\ufffd" in (part.choices[0].delta.content or "") for part in parts)
    logprobs = [p.choices[0].logprobs for p in parts]
    streamed = [b for part in logprobs if part for t in part.content or () for b in t.bytes or ()]
    assert bytes(streamed).decode() == script.answer


def test_hidden_reasoning_makes_no_chunks(openai_client: OpenAI, script: Any) -> None:
    extra = {"include_reasoning": False}
    parts = chunks(openai_client, extra_body=extra, **script.think_first)
    assert text(parts, "reasoning") == ""
    assert text(parts, "content") == script.answer


def test_each_choice_is_a_stream_of_its_own(openai_client: OpenAI, script: Any) -> None:
    parts = chunks(openai_client, n=3, **script.think_first)
    for index in range(3):
        assert text(parts, "content", index) == script.answer
        own = [c for part in parts for c in part.choices if c.index == index]
        assert [c.delta.role for c in own if c.delta.role] == ["assistant"]
        assert [c.finish_reason for c in own if c.finish_reason] == ["stop"]


def test_the_wire_has_events_and_ends_in_done(http: httpx.Client, script: Any) -> None:
    body = {"messages": HELLO, "stream": True, **script.think_first}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    *events, end = answer.text.split("\n\n")
    assert end == ""
    assert events.pop() == "data: [DONE]"
    for event in events:
        assert json.loads(event.removeprefix("data: "))["object"] == "chat.completion.chunk"


def test_a_refusal_of_a_stream_is_a_plain_error(http: httpx.Client) -> None:
    answer = http.post("/v1/chat/completions", json={"messages": [], "stream": True})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
