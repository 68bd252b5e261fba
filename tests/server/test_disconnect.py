"""A client that leaves frees what its request held, at once."""

from __future__ import annotations

import socket
import time
from typing import Any

import httpx
import pytest

LONG = {
    "messages": [{"role": "user", "content": "Hello"}],
    "max_tokens": 1900,
    "ignore_eos": True,
}


def open_stream(http: httpx.Client, fields: dict[str, Any]) -> None:
    with http.stream("POST", "/v1/chat/completions", json={**fields, "stream": True}) as answer:
        assert answer.status_code == 200
        next(answer.iter_lines())


@pytest.mark.parametrize("choices", [1, 3])
def test_leaving_a_stream_returns_its_pages_within_a_second(
    server: Any, http: httpx.Client, choices: int
) -> None:
    before = server.gauges()["ossia_generated_tokens_total"]
    open_stream(http, {**LONG, "n": choices})
    server.wait_until_idle(1.0)
    written = server.gauges()["ossia_generated_tokens_total"] - before
    assert written < 1900 * choices


@pytest.mark.parametrize("choices", [1, 3])
def test_leaving_before_a_whole_answer_returns_its_pages_within_a_second(
    server: Any, http: httpx.Client, choices: int
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json={**LONG, "n": choices}, timeout=0.3)
    server.wait_until_idle(1.0)
    assert " 499 in " in server.output()


def test_a_stop_string_ends_the_work_of_the_engine(
    server: Any, http: httpx.Client, script: Any
) -> None:
    before = server.gauges()["ossia_generated_tokens_total"]
    body = {**LONG, "temperature": 0, "logit_bias": script.final_only, "stop": [" is"]}
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["choices"][0]["finish_reason"] == "stop"
    server.wait_until_idle(1.0)
    assert server.gauges()["ossia_generated_tokens_total"] - before < 100


def test_leaving_before_the_request_is_sent_is_no_fault(server: Any) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    before = server.output().count(" 499 in ")
    with socket.create_connection((host, int(port))) as connection:
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"{")
        time.sleep(0.1)
    deadline = time.monotonic() + 2.0
    while server.output().count(" 499 in ") == before:
        assert time.monotonic() < deadline
    assert "Traceback" not in server.output()


@pytest.mark.parametrize("stream", [False, True])
def test_leaving_while_a_grammar_is_compiled_starts_nothing(
    server: Any, http: httpx.Client, stream: bool
) -> None:
    before = server.gauges()["ossia_constrained_sequences_total"]
    grammar = 'root ::= "x" ' + '"a" ' * (15_000 + stream)  # takes about a second
    form = {"type": "grammar", "syntax": "ebnf", "grammar": grammar}
    body = {"messages": LONG["messages"], "response_format": form, "stream": stream}
    with pytest.raises(httpx.ReadTimeout):
        http.post("/v1/chat/completions", json=body, timeout=0.1)
    time.sleep(1.5)  # by now it would have started
    assert server.gauges()["ossia_constrained_sequences_total"] == before
    server.wait_until_idle(1.0)
