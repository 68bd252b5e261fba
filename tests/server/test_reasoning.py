"""How long the model thinks, what is told when it is stopped, and its log probabilities."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

from ossia.harmony.tokenizer import RETURN

HELLO: Any = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    extra = {name: fields.pop(name) for name in list(fields) if name in EXTRA}
    fields = {"model": "scripted", "messages": HELLO, "max_tokens": 90, **fields}
    return client.chat.completions.create(extra_body=extra, **fields)


EXTRA = ("max_reasoning_tokens", "include_reasoning", "include_reasoning_logprobs")


def details(choice: Any) -> dict[str, Any]:
    found: dict[str, Any] = choice.finish_details
    return found


@pytest.mark.parametrize(("limit", "thought"), [(1, "Thinking"), (2, "Thinking about")])
def test_reasoning_ends_at_its_limit_and_the_answer_follows(
    openai_client: OpenAI, script: Any, limit: int, thought: str
) -> None:
    completion = ask(openai_client, max_reasoning_tokens=limit, **script.think_first)
    choice = completion.choices[0]
    assert choice.message.reasoning == thought  # type: ignore[attr-defined]
    assert choice.message.content == script.answer
    assert choice.finish_reason == "stop"
    assert details(choice)["type"] == "reasoning_cut"
    assert details(choice)["reason"] == "max_tokens"
    assert details(choice)["message"]


def test_no_reasoning_at_all(openai_client: OpenAI, script: Any, tokenizer: Any) -> None:
    bias = {str(tokenizer.encode(script.answer)[0]): 5.0}
    completion = ask(openai_client, max_reasoning_tokens=0, logit_bias=bias, **script.think_first)
    assert not getattr(completion.choices[0].message, "reasoning", None)
    assert completion.choices[0].message.content == script.answer


def test_a_limit_that_is_not_reached_changes_nothing(openai_client: OpenAI, script: Any) -> None:
    completion = ask(openai_client, max_reasoning_tokens=50, **script.think_first)
    assert completion.choices[0].message.content == script.answer
    assert "finish_details" not in completion.choices[0].model_dump()


def test_a_cut_is_told_at_the_end_of_a_stream(openai_client: OpenAI, script: Any) -> None:
    stream = openai_client.chat.completions.create(
        model="scripted",
        messages=HELLO,
        stream=True,
        extra_body={"max_reasoning_tokens": 1},
        **script.think_first,
    )
    choices = [chunk.choices[0].model_dump() for chunk in stream]
    assert [choice.get("finish_details", {}).get("reason") for choice in choices] == [
        *[None] * (len(choices) - 1),
        "max_tokens",
    ]


def test_reasoning_that_repeats_itself_is_ended(
    openai_client: OpenAI, script: Any, tokenizer: Any
) -> None:
    word = str(tokenizer.encode(" again")[0])
    bias = {word: 100.0, str(tokenizer.encode("analysis")[0]): 10.0}
    completion = ask(
        openai_client, temperature=0, logit_bias=bias, max_tokens=1500, stop=[" again"]
    )
    choice = completion.choices[0]
    assert " again again" in choice.message.reasoning  # type: ignore[attr-defined]
    assert choice.finish_reason == "stop"
    assert details(choice)["reason"] == "loop"


def test_an_answer_that_repeats_itself_for_ever_is_ended(
    openai_client: OpenAI, tokenizer: Any
) -> None:
    words = "one fox saw two dogs who met three cats and all of them went to sleep "
    choice = ask(
        openai_client,
        response_format={"type": "regex", "pattern": f"({words})+"},
        temperature=0,
        logit_bias={str(token): 100.0 for token in tokenizer.encode(f"{words}{words}")}
        | {str(RETURN): -100.0},
        max_reasoning_tokens=0,
        max_tokens=1500,
    ).choices[0]
    assert choice.message.content is not None
    assert choice.message.content.startswith(words * 40)
    assert choice.finish_reason == "length"
    assert (details(choice)["type"], details(choice)["channel"]) == ("loop", "final")


def test_running_out_of_tokens_in_the_reasoning_is_told(openai_client: OpenAI) -> None:
    for include in (True, False):
        fields = {"max_tokens": 4, "temperature": 0, "include_reasoning": include}
        choice = ask(openai_client, **fields).choices[0]
        assert choice.finish_reason == "length"
        assert choice.message.content is None
        assert details(choice)["type"] == "max_tokens"
        assert details(choice)["channel"] == "analysis"


def test_running_out_of_tokens_in_the_answer_is_told(openai_client: OpenAI, script: Any) -> None:
    bias = script.final_only
    choice = ask(openai_client, max_tokens=5, temperature=0, logit_bias=bias).choices[0]
    assert choice.message.content == "The bird"
    assert details(choice)["channel"] == "final"


def test_log_probabilities_of_the_reasoning_come_on_request(
    openai_client: OpenAI, script: Any
) -> None:
    fields = {"logprobs": True, "top_logprobs": 2, **script.think_first}
    plain = ask(openai_client, **fields).choices[0].logprobs
    assert plain is not None
    assert "reasoning" not in plain.model_dump()
    asked = ask(openai_client, include_reasoning_logprobs=True, **fields).choices[0].logprobs
    assert asked is not None
    assert asked.content == plain.content
    thought = asked.reasoning  # type: ignore[attr-defined]
    assert bytes(b for token in thought for b in token["bytes"]).decode() == script.reasoning
    assert all(len(token["top_logprobs"]) == 2 for token in thought)
    hidden = ask(
        openai_client, include_reasoning_logprobs=True, include_reasoning=False, **fields
    ).choices[0]
    assert hidden.logprobs is not None
    assert "reasoning" not in hidden.logprobs.model_dump()


def test_streamed_log_probabilities_are_told_apart(openai_client: OpenAI, script: Any) -> None:
    stream = openai_client.chat.completions.create(
        model="scripted",
        messages=HELLO,
        stream=True,
        logprobs=True,
        extra_body={"include_reasoning_logprobs": True},
        **script.think_first,
    )
    parts = [p.model_dump() for chunk in stream if (p := chunk.choices[0].logprobs) is not None]

    def text(field: str) -> str:
        return bytes(b for p in parts for t in p.get(field) or () for b in t["bytes"]).decode()

    assert text("reasoning") == script.reasoning
    assert text("content") == script.answer


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_reasoning_tokens": -1}, "max_reasoning_tokens"),
        ({"max_reasoning_tokens": "many"}, "max_reasoning_tokens"),
        ({"include_reasoning_logprobs": True}, "include_reasoning_logprobs"),
    ],
)
def test_what_makes_no_sense_is_refused(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post(CHAT, json={"messages": HELLO, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
