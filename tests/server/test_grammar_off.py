"""Without the turn grammar the parser makes sense of what comes, and nothing is promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
NEEDING = [
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
    (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "auto",
                    "tools": [{"type": "function", "function": {"name": "weather"}}],
                },
            }
        },
        "tool_choice",
    ),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"response_format": {"type": "choice", "choices": ["a"]}}, "response_format"),
    ({"max_reasoning_tokens": 5}, "max_reasoning_tokens"),
]


@pytest.fixture(scope="module")
def free(start_server: Any) -> Iterator[httpx.Client]:
    """A server without the turn grammar."""
    server = start_server("--turn-grammar", "off")
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client
    server.stop()


def test_answers_and_calls_are_read_as_ever(free: httpx.Client, script: Any) -> None:
    body = {"messages": HELLO, "tools": [script.tool], "max_tokens": 60, "temperature": 0}
    answer = free.post(CHAT, json={**body, "logit_bias": script.final_only}).json()["choices"][0]
    assert answer["message"]["content"] == script.answer
    called = free.post(CHAT, json={**body, "logit_bias": script.call}).json()["choices"][0]
    assert called["message"]["tool_calls"][0]["function"]["arguments"] == script.arguments


def test_a_call_of_what_is_not_there_becomes_text(free: httpx.Client, script: Any) -> None:
    body = {"messages": HELLO, "max_tokens": 60, "temperature": 0, "logit_bias": script.call}
    choice = free.post(CHAT, json=body).json()["choices"][0]
    assert choice["message"]["content"] == script.arguments
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(("fields", "param"), NEEDING)
def test_what_needs_the_grammar_is_refused_and_names_the_option(
    free: httpx.Client, script: Any, fields: dict[str, Any], param: str
) -> None:
    answer = free.post(CHAT, json={"messages": HELLO, "tools": [script.tool], **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert "--turn-grammar off" in error["message"]


@pytest.mark.parametrize(("fields", "param"), NEEDING)
def test_ignore_eos_runs_without_the_grammar(
    http: httpx.Client, script: Any, fields: dict[str, Any], param: str
) -> None:
    body = {"messages": HELLO, "tools": [script.tool], "ignore_eos": True, **fields}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "leave out ignore_eos" in answer.json()["error"]["message"]


def test_the_default_is_allowed_without_the_grammar(free: httpx.Client, script: Any) -> None:
    body = {
        "messages": HELLO,
        "tools": [script.tool],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "response_format": {"type": "text"},
        "max_tokens": 1,
    }
    assert free.post(CHAT, json=body).status_code == 200


def test_constrained_sequences_are_counted(
    server: Any, http: httpx.Client, free: httpx.Client
) -> None:
    def constrained() -> float:
        count: float = server.gauges()["ossia_constrained_sequences_total"]
        return count

    before = constrained()
    for body in ({"n": 2}, {"ignore_eos": True}):
        http.post(CHAT, json={"messages": HELLO, "max_tokens": 2, **body})
    server.wait_until_idle(1.0)
    assert constrained() == before + 2
    assert "ossia_constrained_sequences_total 0.0" in free.get("/metrics").text
