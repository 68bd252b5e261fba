"""Responses over a WebSocket: the SDK's connection, and frames by hand where it does not go."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import pytest
from openai import OpenAI
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ..conftest import ServerProcess
from .conftest import HELLO, SECRET

CREATE = {"type": "response.create", **HELLO, "temperature": 0, "presence_penalty": 1.0}
LAST = ("response.completed", "response.incomplete", "response.failed", "error")


def opened(server: ServerProcess, **options: Any) -> ClientConnection:
    return connect(f"{server.url.replace('http', 'ws')}/v1/responses", **options)


def answer(socket: ClientConnection, **fields: Any) -> list[dict[str, Any]]:
    """The events of one request."""
    socket.send(json.dumps({**CREATE, **fields}))
    events = []
    while not events or events[-1]["type"] not in LAST:
        events.append(json.loads(socket.recv(timeout=30)))
    return events


def text(events: list[dict[str, Any]]) -> str:
    output = events[-1]["response"]["output"]
    return "".join(p["text"] for i in output if i["type"] == "message" for p in i["content"])


def test_the_sdk_gets_the_events_of_a_stream(openai_client: OpenAI) -> None:
    short: dict[str, Any] = {**HELLO, "temperature": 0, "max_output_tokens": 24}
    streamed = [event.type for event in openai_client.responses.create(**short, stream=True)]
    received: list[str] = []
    with openai_client.responses.connect() as connection:
        connection.response.create(**short)
        while not received or received[-1] not in LAST:
            received.append(connection.recv().type)
    assert distinct(received) == distinct(streamed)


def distinct(kinds: list[str]) -> list[str]:
    """Without repetitions: how many deltas there are depends on the time of day."""
    return [kind for kind, _ in groupby(kinds)]


def test_one_connection_serves_many_requests(server: ServerProcess) -> None:
    with opened(server) as socket:
        first, second = answer(socket), answer(socket)
    assert text(first) == text(second) != ""
    assert first[-1]["response"]["id"] != second[-1]["response"]["id"]


def test_what_is_not_stored_is_continued_on_its_own_connection_only(
    server: ServerProcess,
) -> None:
    with opened(server) as socket:
        first = answer(socket, store=False)[-1]["response"]
        second = answer(socket, store=False, previous_response_id=first["id"])[-1]
        third = answer(socket, store=False, previous_response_id=second["response"]["id"])[-1]
    used = [r["usage"]["input_tokens"] for r in (first, second["response"], third["response"])]
    assert used == sorted(set(used))
    with opened(server) as socket:
        refused = answer(socket, previous_response_id=first["id"])[-1]
        assert refused["type"] == "error"
        assert refused["error"]["code"] == "previous_response_not_found"
        assert answer(socket)[-1]["type"] == "response.completed"


def test_a_failed_continuation_forgets_what_it_went_on_from(server: ServerProcess) -> None:
    with opened(server) as socket:
        first = answer(socket, store=False)[-1]["response"]["id"]
        wrong = [{"type": "function_call_output", "call_id": "nobody", "output": "x"}]
        refused = answer(socket, previous_response_id=first, input=wrong)[-1]
        assert (refused["type"], refused["status"]) == ("error", 400)
        again = answer(socket, previous_response_id=first)[-1]
        assert again["error"]["code"] == "previous_response_not_found"


@pytest.mark.parametrize(
    ("frame", "param"),
    [
        ("{", None),
        ('{"type": "response.steer"}', "type"),
        ('{"input": "Hello"}', "type"),
        ('{"type": "response.create", "input": 7}', "input"),
        ('{"type": "response.create", "input": "Hi", "background": true}', "background"),
    ],
)
def test_a_wrong_frame_is_answered_and_the_connection_goes_on(
    server: ServerProcess, frame: str, param: str | None
) -> None:
    with opened(server) as socket:
        socket.send(frame)
        refused = json.loads(socket.recv(timeout=30))
        assert (refused["type"], refused["status"]) == ("error", 400)
        assert refused["error"]["param"] == param
        assert answer(socket)[-1]["type"] == "response.completed"


def test_a_client_that_leaves_ends_what_runs_for_it(server: ServerProcess) -> None:
    with opened(server) as socket:
        socket.send(json.dumps({**CREATE, "presence_penalty": 0, "max_output_tokens": 1900}))
        created = json.loads(socket.recv(timeout=30))
        assert created["type"] == "response.created"
    server.wait_until_idle(30)


def test_the_key_is_asked_for_before_the_connection_is_accepted(
    tool_server: ServerProcess,
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        opened(tool_server)
    assert refused.value.response.status_code == 401
    with opened(tool_server, additional_headers={"Authorization": f"Bearer {SECRET}"}) as socket:
        assert answer(socket)[-1]["type"] == "response.completed"
