"""Streams of POST /v1/responses: every event as OpenAI types it, and all of them together."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import httpx
import pytest
from openai import OpenAI

from ..conftest import wait_for
from .conftest import ENDLESS, HELLO, THINK_ONCE, WEATHER, Ask, comparable, status

NOTE = {"type": "custom", "name": "note"}
CASES: dict[str, dict[str, Any]] = {
    "answer": {},
    "function": {"tools": [WEATHER]},
    "custom": {"tools": [NOTE]},
    "summary": {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 1},
    "incomplete": {"max_output_tokens": 10},
    "not stored": {"store": False},
}


def stream(client: OpenAI, **fields: Any) -> list[Any]:
    return list(client.responses.create(**{**HELLO, **THINK_ONCE, **fields}, stream=True))


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_a_stream_ends_with_what_the_whole_answer_is(
    openai_client: OpenAI, ask: Ask, fields: dict[str, Any]
) -> None:
    events = stream(openai_client, **fields)
    whole = ask(**fields)
    last = events[-1]
    assert last.type == f"response.{whole.status}"
    assert comparable(last.response.output) == comparable(whole.output)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert comparable(done) == comparable(whole.output)
    assert last.response.usage.output_tokens == whole.usage.output_tokens


@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_the_pieces_of_a_text_joined_are_the_text(
    openai_client: OpenAI, fields: dict[str, Any]
) -> None:
    events = stream(openai_client, **fields)
    pieces: dict[tuple[str, str], list[str]] = defaultdict(list)
    texts = {}
    for event in events:
        kind, _, step = event.type.rpartition(".")
        if step == "delta":
            pieces[kind, event.item_id].append(event.delta)
        elif step == "done" and (kind, event.to_dict().get("item_id")) in pieces:
            fields_ = event.to_dict()
            texts[kind, event.item_id] = next(
                fields_[name] for name in ("text", "arguments", "input") if name in fields_
            )
    assert texts == {key: "".join(parts) for key, parts in pieces.items()}
    assert texts


def test_events_are_numbered_and_begin_and_end_with_the_response(openai_client: OpenAI) -> None:
    events = stream(openai_client, tools=[WEATHER])
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == "response.completed"
    assert {event.response.id for event in events if hasattr(event, "response")} == {
        events[0].response.id
    }


def test_the_wire_has_named_events_and_a_last_line(server: Any) -> None:
    body = {**HELLO, "temperature": 0, "presence_penalty": 1.0, "stream": True}
    answer = httpx.post(server.url + "/v1/responses", json=body, timeout=30)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = answer.text.rstrip("\n").split("\n\n")
    assert last == "data: [DONE]"
    for event in events:
        name, data = event.split("\n")
        assert name == f"event: {json.loads(data.removeprefix('data: '))['type']}"


def test_the_stream_helper_of_the_sdk_gives_the_response(
    openai_client: OpenAI, script: Any
) -> None:
    with openai_client.responses.stream(**HELLO, **THINK_ONCE) as events:
        types = [event.type for event in events]
        response = events.get_final_response()
    assert response.output_text == script.answer
    assert types[-1] == "response.completed"
    assert openai_client.responses.retrieve(response.id).output_text == script.answer


def test_the_stream_helper_collects_a_call(openai_client: OpenAI, script: Any) -> None:
    with openai_client.responses.stream(**{**HELLO, "tools": [WEATHER]}, **THINK_ONCE) as events:
        response = events.get_final_response()
    assert response.output[-1].arguments == script.arguments


def test_a_client_that_leaves_its_stream_ends_the_work(openai_client: OpenAI, server: Any) -> None:
    before = server.gauges()["ossia_generated_tokens_total"]
    with openai_client.responses.create(**HELLO, **ENDLESS, stream=True) as events:
        response = next(iter(events)).response
    wait_for(lambda: status(openai_client, response.id) == "cancelled", 20)
    server.wait_until_idle(20)
    assert server.gauges()["ossia_generated_tokens_total"] - before < 1900


def test_a_client_that_leaves_before_the_whole_answer_ends_the_work(
    server: Any, openai_client: OpenAI
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(server.url + "/v1/responses", json={**HELLO, **ENDLESS}, timeout=0.5)
    server.wait_until_idle(20)
    assert "POST /v1/responses 499 in " in server.output()
