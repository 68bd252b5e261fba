"""What cannot be had is refused in one sentence, with the field and a code."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from .conftest import HELLO, WEATHER, Ask

CREATE = "/v1/responses"
COUNT = "/v1/responses/input_tokens"
COMPACT = "/v1/responses/compact"
CONVERSATIONS = "/v1/conversations"
NAMELESS = {"type": "function", "parameters": {}}


def refusal(server: Any, path: str, body: Any, status: int = 400) -> dict[str, Any]:
    """The error that a body gets, which is one sentence."""
    answer = httpx.post(server.url + path, json=body, headers=server.headers, timeout=30)
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert re.fullmatch(r"[^\n]{10,300}\.", error["message"]), error["message"]
    return error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": 5}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": None}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "nobody", "content": ""}]}, "input[0].role"),
        ({"input": [{"type": "strange"}]}, "input[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "strange"}]}]},
            "input[0].content[0].type",
        ),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input[0].call_id"),
        (
            {"input": [{"type": "function_call_output", "call_id": "1", "output": ""}]},
            "input[0].call_id",
        ),
        ({"instructions": 5}, "instructions"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"conversation": 5}, "conversation"),
        ({"stream": "yes"}, "stream"),
        ({"store": "no"}, "store"),
        ({"background": 1}, "background"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 1.5}, "max_output_tokens"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"truncation": "some"}, "truncation"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "poem"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"tools": {}}, "tools"),
        ({"tools": [NAMELESS]}, "tools[0].name"),
        ({"tools": [{"name": "weather"}]}, "tools[0].type"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [{"type": "function", "name": "a b"}]}, "tools[0].name"),
        ({"tools": [{"type": "mcp"}]}, "tools[0].server_label"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].server_url"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "weather"}}, "tool_choice"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"a" * 65: ""}}, "metadata"),
        ({"metadata": {"a": "b" * 513}}, "metadata"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ],
    ids=lambda value: value if isinstance(value, str) else json.dumps(value)[:40],
)
def test_a_field_that_cannot_be_read_is_named(server: Any, fields: Any, param: str) -> None:
    error = refusal(server, CREATE, {**HELLO, **fields})
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", [CREATE, COUNT, COMPACT])
def test_a_model_that_is_not_served_is_not_found(server: Any, path: str) -> None:
    error = refusal(server, path, {"model": "gpt-5", "input": "Hello"}, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


@pytest.mark.parametrize("path", [CREATE, COUNT, COMPACT])
def test_a_body_that_is_no_object_is_refused(server: Any, path: str) -> None:
    assert refusal(server, path, [])["code"] == "invalid_json"


def test_what_may_be_remembered_of_a_conversation_is_limited(server: Any) -> None:
    many = {str(number): "" for number in range(17)}
    assert refusal(server, CONVERSATIONS, {"metadata": many})["param"] == "metadata"
    made = httpx.post(server.url + CONVERSATIONS, json={}, timeout=30).json()["id"]
    path = f"{CONVERSATIONS}/{made}"
    assert refusal(server, path, {"metadata": {"a": "b" * 513}})["param"] == "metadata"
    assert refusal(server, f"{path}/items", {})["param"] == "items"
    assert refusal(server, f"{path}/items", {"items": [{"role": "user"}]})["param"] == (
        "items[0].content"
    )


def test_a_prompt_that_is_too_long_is_refused_or_cut(ask: Ask, server: Any) -> None:
    long = [{"role": "user", "content": f"Fact {number}: water is wet."} for number in range(400)]
    error = refusal(server, CREATE, {**HELLO, "input": long})
    assert error["code"] == "context_length_exceeded"
    response = ask(input=long, truncation="auto", max_output_tokens=20)
    assert response.usage.input_tokens < 2048
    more_than_there_is = ask(input=long, truncation="auto", max_output_tokens=2000)
    assert more_than_there_is.usage.input_tokens < 2048


def test_a_refusal_comes_before_the_stream(server: Any) -> None:
    assert refusal(server, CREATE, {**HELLO, "stream": True, "temperature": -1})["param"] == (
        "temperature"
    )


def test_what_cannot_run_here_is_left_out_of_the_tools(ask: Ask) -> None:
    response = ask(tools=[{"type": "image_generation"}, {"type": "web_search"}])
    assert response.status == "completed"
    assert [tool.type for tool in response.tools] == ["image_generation", "web_search"]


PATHS = [
    *[("POST", path) for path in (CREATE, COUNT, COMPACT, CONVERSATIONS)],
    *[("GET", "/v1/responses/resp_1"), ("DELETE", "/v1/responses/resp_1")],
    *[("POST", "/v1/responses/resp_1/cancel"), ("GET", "/v1/responses/resp_1/input_items")],
    *[(method, "/v1/conversations/conv_1") for method in ("GET", "POST", "DELETE")],
    *[(method, "/v1/conversations/conv_1/items") for method in ("GET", "POST")],
    *[(method, "/v1/conversations/conv_1/items/msg_1") for method in ("GET", "DELETE")],
    ("POST", "/mcp"),
]


@pytest.mark.parametrize(("method", "path"), PATHS, ids=lambda value: value)
def test_every_endpoint_asks_for_the_key(tool_server: Any, method: str, path: str) -> None:
    body = {"json": {}} if method == "POST" else {}
    with httpx.Client(base_url=tool_server.url, timeout=30) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            answer = client.request(method, path, headers=headers, **body)
            assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        known = client.request(method, path, headers=tool_server.headers, **body)
        assert known.status_code in (200, 400, 404, 406)


@pytest.mark.parametrize(
    ("method", "path"), [one for one in PATHS if "_1" in one[1]], ids=lambda value: value
)
def test_what_is_not_there_is_not_found(server: Any, method: str, path: str) -> None:
    body = {"json": {"items": []}} if method == "POST" else {}
    answer = httpx.request(method, server.url + path, **body, timeout=30)
    assert answer.status_code == 404
    error = answer.json()["error"]
    wanted = "conversation" if "conv_1" in path else "response"
    assert error["param"] == f"{wanted}_id"
    assert (
        error["code"]
        == {
            "conversation": "conversation_not_found",
            "response": "not_found",
        }[wanted]
    )


@pytest.mark.parametrize("query", ["stream=perhaps", "starting_after=x", "starting_after=1.5"])
def test_a_value_in_the_address_that_cannot_be_read_is_named(server: Any, query: str) -> None:
    answer = httpx.get(f"{server.url}/v1/responses/resp_1?{query}", timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == query.partition("=")[0]
