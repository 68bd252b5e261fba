"""Every refusal has OpenAI's shape, the right status, and one sentence that says what to change."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def refusal(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].endswith(".")
    assert "\n" not in error["message"]
    return error


def test_an_unknown_path_is_404_and_a_wrong_method_405(http: httpx.Client) -> None:
    assert "/docs" in refusal(http.get("/v1/chat"), 404)["message"]
    answer = http.get(CHAT)
    assert "POST" in refusal(answer, 405)["message"]
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"messages": "\\ud800"}', b"[" * 100_000],
)
def test_a_body_that_is_no_json_object_is_refused(http: httpx.Client, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    error = refusal(http.post(CHAT, content=content, headers=headers), 400)
    assert error["code"] == "invalid_json"


def test_a_form_is_refused(http: httpx.Client) -> None:
    error = refusal(http.post(CHAT, data={"messages": "x"}), 400)
    assert "Content-Type: application/json" in error["message"]


def test_a_body_past_16_mib_is_413(http: httpx.Client) -> None:
    large = b'{"messages": "' + b"x" * 2**24 + b'"}'
    assert "16 MiB" in refusal(http.post(CHAT, content=large), 413)["message"]


def test_a_body_of_unknown_length_past_16_mib_is_413(http: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(17):
            yield b" " * 2**20

    refusal(http.post(CHAT, content=endless()), 413)


@pytest.mark.parametrize(
    ("fields", "param", "sentence"),
    [
        ({"messages": None}, "messages", "messages must be a list."),
        ({"messages": []}, "messages", "messages is empty; send at least one message."),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "messages[0].role is required."),
        (
            {"messages": [{"role": "user"}]},
            "messages[0].content",
            "messages[0].content is required in a user message.",
        ),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages[0].content",
            "messages[0].content must be a string or a list.",
        ),
        (
            {"messages": [{"role": "critic", "content": "x"}]},
            "messages[0].role",
            "messages[0].role must be 'system', 'developer', 'user', 'assistant', 'tool' or "
            "'function'.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages[0].content[0].text",
            "messages[0].content[0].text is required in a part of type text.",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            "messages[0].content[0] is of type 'image_url'; gpt-oss reads text only, "
            "send parts of type text.",
        ),
        ({"temperature": "hot"}, "temperature", "temperature must be a number."),
        ({"temperature": -1}, "temperature", "temperature must be at least 0 and at most 100."),
        ({"top_p": 0}, "top_p", "top_p must be above 0 and at most 1."),
        ({"n": 0}, "n", "n must be between 1 and 128."),
        ({"n": 1.5}, "n", "n must be a whole number."),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be 1 or more."),
        ({"max_tokens": True}, "max_tokens", "max_tokens must be a whole number."),
        (
            {"max_completion_tokens": 0},
            "max_completion_tokens",
            "max_completion_tokens must be 1 or more.",
        ),
        ({"max_completion_tokens": 5000}, "max_completion_tokens", None),
        ({"stream": "yes"}, "stream", "stream must be true or false."),
        ({"stop": ["a", 1]}, "stop[1]", "stop[1] must be a string."),
        ({"stop": [""]}, "stop", "stop has an empty string; leave it out."),
        ({"stop": ["x"] * 17}, "stop", "stop takes at most 16 strings."),
        ({"logit_bias": {"x": 1}}, "logit_bias", None),
        ({"logit_bias": {"999999": 1}}, "logit_bias", None),
        ({"logit_bias": {"5": 200}}, "logit_bias", None),
        ({"seed": 2**70}, "seed", "seed must fit into 64 bits."),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs needs logprobs: true."),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", None),
        (
            {"reasoning_effort": "huge"},
            "reasoning_effort",
            "reasoning_effort must be 'none', 'minimal', 'low', 'medium', 'high', 'xhigh' or "
            "'max'.",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", None),
        ({"tools": [{"type": "function"}]}, "tools[0].function", None),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name",
            None,
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
            "tools[0].function.parameters must be an object.",
        ),
        (
            {"messages": [*HELLO, {"role": "tool", "tool_call_id": "x", "content": "y"}]},
            "messages[1].tool_call_id",
            None,
        ),
        ({"top_k": 10**30}, "top_k", None),
        ({"min_tokens": 10**30}, "min_tokens", None),
    ],
)
def test_a_bad_field_is_named(
    http: httpx.Client, fields: dict[str, Any], param: str, sentence: str | None
) -> None:
    error = refusal(http.post(CHAT, json={"messages": HELLO, **fields}), 400)
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    if sentence:
        assert error["message"] == sentence


def test_infinity_is_refused(http: httpx.Client) -> None:
    body = json.dumps({"messages": HELLO, "temperature": float("inf")})
    refusal(http.post(CHAT, content=body), 400)


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([], "prompt"),
        ("", "prompt"),
        ([[]], "prompt"),
        ([-1], "prompt"),
        ([10**20], "prompt"),
        (["a", 1], "prompt[1]"),
        (5, "prompt"),
    ],
)
def test_a_bad_prompt_is_refused(http: httpx.Client, prompt: object, param: str) -> None:
    error = refusal(http.post("/v1/completions", json={"prompt": prompt}), 400)
    assert error["param"] == param


def test_an_unknown_model_is_404(http: httpx.Client) -> None:
    error = refusal(http.post(CHAT, json={"messages": HELLO, "model": "gpt-5"}), 404)
    assert error["code"] == "model_not_found"
    assert "scripted" in error["message"]
    refusal(http.get("/v1/models/gpt-5"), 404)


def test_a_prompt_longer_than_the_context_is_refused_with_the_numbers(http: httpx.Client) -> None:
    error = refusal(http.post("/v1/completions", json={"prompt": [5] * 5000}), 400)
    assert error["code"] == "context_length_exceeded"
    assert "5000" in error["message"]
    assert "2048" in error["message"]
    body = {"messages": HELLO, "max_tokens": 2048}
    assert refusal(http.post(CHAT, json=body), 400)["code"] == "context_length_exceeded"


def test_the_sdk_raises_its_own_errors(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        openai_client.chat.completions.create(
            model="other", messages=[{"role": "user", "content": "x"}]
        )
    assert raised.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(
            model="scripted", messages=[{"role": "user", "content": "x"}], temperature=-1
        )
    assert refused.value.param == "temperature"


def test_lone_surrogates_deep_schemas_and_long_words_do_no_harm(http: httpx.Client) -> None:
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"type": "object", "properties": {"inner": deep}}
    function = {"name": "f", "parameters": deep}
    body = {
        "messages": [{"role": "user", "content": "a" * 3000}],
        "tools": [{"type": "function", "function": function}],
        "max_tokens": 1,
    }
    assert http.post(CHAT, json=body).status_code == 200
