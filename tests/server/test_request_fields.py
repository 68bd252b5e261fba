"""The table of docs/api.md has every field of OpenAI's Chat Completions and tells the truth."""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat import completion_create_params as openai_params

from ossia.server.schema.chat import ChatRequest

CHAT = "/v1/chat/completions"
DOCS = Path(__file__).parents[2] / "docs" / "api.md"
FUNCTION = {"name": "weather", "description": "Weather.", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
VALUES: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hello"}],
    "model": "scripted",
    "audio": {"voice": "alloy", "format": "mp3"},
    "frequency_penalty": 0.5,
    "function_call": "auto",
    "functions": [FUNCTION],
    "logit_bias": {"5": -100},
    "logprobs": True,
    "max_completion_tokens": 30,
    "max_tokens": 30,
    "metadata": {"team": "birds"},
    "modalities": ["text"],
    "moderation": {"model": "omni-moderation-latest"},
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "The bird"},
    "presence_penalty": 0.5,
    "prompt_cache_key": "key",
    "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "reasoning_effort": "high",
    "response_format": {"type": "text"},
    "safety_identifier": "someone",
    "seed": 5,
    "service_tier": "auto",
    "stop": ["never"],
    "store": True,
    "stream": False,
    "stream_options": {"include_usage": True, "include_obfuscation": False},
    "temperature": 0,
    "tool_choice": "auto",
    "tools": [TOOL],
    "top_logprobs": 2,
    "top_p": 0.9,
    "user": "someone",
    "verbosity": "low",
    "web_search_options": {"search_context_size": "low"},
}
WITH = {"top_logprobs": {"logprobs": True}}  # fields that need another one


def documented() -> dict[str, str]:
    """What the table says of each field."""
    rows = re.findall(r"^\| (`.+?`) \| (works|ignored|refused) \|", DOCS.read_text(), re.MULTILINE)
    return {name: said for names, said in rows for name in re.findall(r"`(\w+)`", names)}


def openai_fields() -> set[str]:
    return set(typing.get_type_hints(openai_params.CompletionCreateParamsNonStreaming))


def test_every_field_of_the_sdk_is_documented() -> None:
    assert set(documented()) == openai_fields()


def test_every_field_of_the_sdk_is_in_the_schema() -> None:
    assert openai_fields() <= ChatRequest.model_fields.keys()


@pytest.mark.parametrize("field", sorted(openai_fields()))
def test_a_field_does_what_is_documented(http: httpx.Client, script: Any, field: str) -> None:
    plain = {
        "messages": VALUES["messages"],
        "temperature": 0,
        "max_tokens": 30,
        "logit_bias": script.final_only,
    }
    answer = http.post(CHAT, json={**plain, field: VALUES[field], **WITH.get(field, {})})
    said = documented()[field]
    if said == "refused":
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == field
        return
    assert answer.status_code == 200, answer.text
    if said == "ignored":
        expected = http.post(CHAT, json=plain).json()
        assert answer.json()["choices"] == expected["choices"]
        assert answer.json()["usage"]["prompt_tokens"] == expected["usage"]["prompt_tokens"]


@pytest.mark.parametrize("field", sorted(openai_fields() - {"messages"}))
def test_null_is_the_default(http: httpx.Client, script: Any, field: str) -> None:
    body = {"messages": VALUES["messages"], "temperature": 0, "max_tokens": 2, field: None}
    assert http.post(CHAT, json=body).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, 5) for field in ("user", "store", "service_tier", "metadata", "verbosity")),
        ("prediction", "text"),
        ("parallel_tool_calls", "no"),
        ("function_call", 5),
        ("tools", {}),
        ("modalities", "text"),
        ("stream_options", True),
    ],
)
def test_a_wrong_type_is_refused_also_where_the_value_would_not_count(
    http: httpx.Client, field: str, value: Any
) -> None:
    answer = http.post(CHAT, json={"messages": VALUES["messages"], field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


def test_audio_is_refused_as_a_modality_too(http: httpx.Client) -> None:
    body = {"messages": VALUES["messages"], "modalities": ["text", "audio"]}
    answer = http.post(CHAT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "modalities"


def test_the_openapi_page_shows_every_field(http: httpx.Client) -> None:
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["ChatRequest"]["properties"]
    assert openai_fields() <= properties.keys()
    assert "schema" in schemas["JsonSchemaFormat"]["properties"]
    for field, said in documented().items():
        if said in ("ignored", "refused"):
            assert said.capitalize() in properties[field]["description"]
