"""POST /v1/completions, through the official SDK in strict mode."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import OpenAI

from ossia.harmony.tokenizer import Tokenizer


def complete(client: OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(model="scripted", prompt=prompt, temperature=0, **fields)


@pytest.fixture
def lenient_client(server: Any) -> Iterator[OpenAI]:
    """For streams: the SDK's strict mode refuses the null that OpenAI's own API sends as
    finish_reason of every chunk but the last."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_text_is_continued(openai_client: OpenAI) -> None:
    completion = complete(openai_client, "The", max_tokens=2)
    assert completion.choices[0].text == " bird is"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.prompt_tokens == 1
    assert completion.usage.completion_tokens == 2


def test_sixteen_tokens_are_written_where_no_number_is_given(openai_client: OpenAI) -> None:
    completion = complete(openai_client, "x", extra_body={"ignore_eos": True})
    assert completion.usage.completion_tokens == 16


def test_every_form_of_prompt_is_taken(openai_client: OpenAI, tokenizer: Tokenizer) -> None:
    the, city = tokenizer.encode("The"), tokenizer.encode("city")
    for prompt in ("The", the, ["The"], [the]):
        assert complete(openai_client, prompt, max_tokens=1).choices[0].text == " bird"
    for prompts in (["The", "city"], [the, city]):
        choices = complete(openai_client, prompts, max_tokens=1, n=2).choices
        assert [c.index for c in choices] == [0, 1, 2, 3]
        assert [c.text for c in choices] == [" bird", " bird", '":"', '":"']


def test_echo_begins_with_the_prompt(openai_client: OpenAI, lenient_client: OpenAI) -> None:
    completion = complete(openai_client, ["The", "city"], max_tokens=1, echo=True)
    assert [choice.text for choice in completion.choices] == ["The bird", 'city":"']
    parts = complete(lenient_client, "The", max_tokens=2, echo=True, stream=True)
    assert "".join(part.choices[0].text for part in parts) == "The bird is"


def test_a_stream_has_the_same_text(openai_client: OpenAI, lenient_client: OpenAI) -> None:
    options = {"include_usage": True}
    parts = list(
        complete(lenient_client, ["The", "city"], max_tokens=4, stream=True, stream_options=options)
    )
    assert parts.pop().usage.completion_tokens == 8
    texts = ["", ""]
    for part in parts:
        texts[part.choices[0].index] += part.choices[0].text
    whole = complete(openai_client, ["The", "city"], max_tokens=4)
    assert texts == [choice.text for choice in whole.choices]


def test_logprobs_have_the_legacy_form(openai_client: OpenAI) -> None:
    completion = complete(openai_client, "The", max_tokens=2, logprobs=2)
    logprobs = completion.choices[0].logprobs
    assert logprobs.tokens == [" bird", " is"]
    assert logprobs.text_offset == [0, 5]
    assert all(logprob <= 0 for logprob in logprobs.token_logprobs)
    assert [max(top, key=top.get) for top in logprobs.top_logprobs] == [" bird", " is"]
    assert all(len(top) == 2 for top in logprobs.top_logprobs)


def test_special_tokens_are_hidden_unless_asked_for(
    openai_client: OpenAI, tokenizer: Tokenizer
) -> None:
    prompt = tokenizer.encode(" it")
    hidden = complete(openai_client, prompt, max_tokens=2)
    shown = complete(openai_client, prompt, max_tokens=2, extra_body={"skip_special_tokens": False})
    assert hidden.choices[0].text == ""
    assert shown.choices[0].text == "<|end|><|start|>"


def test_the_spelling_of_a_special_token_is_plain_text(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"text": "<|end|>"}).json()["tokens"]
    assert len(tokens) > 1
    assert http.post("/detokenize", json={"tokens": tokens}).json() == {"text": "<|end|>"}


def test_a_stop_string_ends_the_text(openai_client: OpenAI, script: Any) -> None:
    completion = complete(openai_client, "The", stop=[" is"])
    assert completion.choices[0].text == " bird"
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("field", "value"),
    [("suffix", "end"), ("best_of", 3), ("logprobs", 21), ("max_tokens", 0), ("n", 0)],
)
def test_what_is_not_offered_is_refused(http: httpx.Client, field: str, value: object) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x", field: value})
    assert answer.status_code == 400
    assert field in answer.json()["error"]["message"]


def test_echo_and_logprobs_do_not_go_together(http: httpx.Client) -> None:
    body = {"prompt": "x", "echo": True, "logprobs": 1}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "logprobs"
