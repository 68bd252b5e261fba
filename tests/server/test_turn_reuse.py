"""The next request of a conversation finds the tokens of the turn before in the cache."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

PAGE = 16  # tokens
QUESTION = {"role": "user", "content": "How is the weather? " * 20}


def ask(client: OpenAI, messages: list[Any], script: Any, **fields: Any) -> ChatCompletion:
    fields = {"tools": [script.tool], **script.call_twice, **fields}
    return client.chat.completions.create(
        model="scripted", messages=messages, max_tokens=200, **fields
    )


def ask_in_a_stream(client: OpenAI, messages: list[Any], script: Any, **fields: Any) -> Any:
    fields = {"tools": [script.tool], **script.call_twice, **fields}
    with client.chat.completions.stream(
        model="scripted",
        messages=messages,
        stream_options={"include_usage": True},
        **fields,
    ) as stream:
        return stream.get_final_completion()


def results(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers to the calls, the last one first."""
    return [
        {"role": "tool", "tool_call_id": call["id"], "content": "Sunny."}
        for call in reversed(message["tool_calls"])
    ]


def as_sent(message: Any, *, reasoning: bool) -> dict[str, Any]:
    body: dict[str, Any] = message.model_dump(exclude_none=True)
    for call in body["tool_calls"]:  # the SDK adds fields of its own
        call["function"].pop("parsed_arguments", None)
        call.pop("index", None)
    if not reasoning:
        del body["reasoning"], body["reasoning_content"]
    return body


def cached(completion: ChatCompletion) -> int:
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    return completion.usage.prompt_tokens_details.cached_tokens or 0


def whole_pages(completion: ChatCompletion) -> int:
    """What can be in the cache: the last token was never computed."""
    assert completion.usage is not None
    return (completion.usage.total_tokens - 1) // PAGE * PAGE


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_after_calls_the_whole_turn_is_in_the_cache(
    openai_client: OpenAI, script: Any, streamed: bool, reasoning: bool
) -> None:
    question = {**QUESTION, "name": f"case_{streamed}_{reasoning}"}
    send = ask_in_a_stream if streamed else ask
    first = send(openai_client, [question], script)
    assert len(first.choices[0].message.tool_calls) == 2
    message = as_sent(first.choices[0].message, reasoning=reasoning)
    follow = [question, message, *results(message)]
    second = send(openai_client, follow, script, logit_bias=script.final_only)
    assert second.choices[0].message.content == script.answer
    assert cached(second) >= whole_pages(first)


def test_each_of_several_choices_can_be_followed(openai_client: OpenAI, script: Any) -> None:
    question = {**QUESTION, "name": "several"}
    first = ask(openai_client, [question], script, n=2)
    lengths = []
    for choice in first.choices:
        message = as_sent(choice.message, reasoning=False)
        follow = [question, message, *results(message)]
        second = ask(openai_client, follow, script, max_completion_tokens=1)
        assert second.usage is not None
        lengths.append(second.usage.prompt_tokens)
        assert first.usage is not None
        written = first.usage.completion_tokens // 2
        assert cached(second) >= (first.usage.prompt_tokens + written - 1) // PAGE * PAGE
    assert lengths[0] == lengths[1]


def test_reasoning_that_was_dropped_is_read_again(
    openai_client: OpenAI, script: Any, server: Any
) -> None:
    question = {**QUESTION, "name": "dropped"}
    first = ask(openai_client, [question], script)
    prompts = [
        prompt(server, [question, m := as_sent(first.choices[0].message, reasoning=r), *results(m)])
        for r in (True, False)
    ]
    assert prompts[0] == prompts[1]
    assert f"<|channel|>analysis<|message|>{script.reasoning}<|end|>" in prompts[0]


def test_what_the_client_changed_is_read_as_it_was_sent(
    openai_client: OpenAI, script: Any, server: Any
) -> None:
    question = {**QUESTION, "name": "changed"}
    first = ask(openai_client, [question], script)
    message = as_sent(first.choices[0].message, reasoning=False)
    message["tool_calls"][0]["function"]["arguments"] = '{"city":"Rome"}'
    text = prompt(server, [question, message, *results(message)])
    assert '{"city":"Rome"}<|call|>' in text
    assert script.reasoning not in text


def test_a_turn_that_was_cut_off_is_not_remembered(
    openai_client: OpenAI, script: Any, server: Any
) -> None:
    question = {**QUESTION, "name": "short"}
    first = ask(openai_client, [question], script, max_completion_tokens=24)
    assert first.choices[0].finish_reason == "length"
    message = as_sent(first.choices[0].message, reasoning=False)
    assert script.reasoning not in prompt(server, [question, message])


def test_an_answer_is_read_with_the_tokens_it_was_written_in(
    openai_client: OpenAI, script: Any, server: Any
) -> None:
    question = {**QUESTION, "name": "answered"}
    first = ask(openai_client, [question], script, logit_bias=script.final_only)
    answer = first.choices[0].message.content
    follow = [question, {"role": "assistant", "content": answer}, {"role": "user", "content": "?"}]
    second = ask(openai_client, follow, script, logit_bias=script.final_only)
    assert cached(second) >= whole_pages(first)


def prompt(server: Any, messages: list[Any]) -> str:
    """The text that the model would read."""
    tokens = httpx.post(server.url + "/tokenize", json={"messages": messages}).json()["tokens"]
    text: str = httpx.post(server.url + "/detokenize", json={"tokens": tokens}).json()["text"]
    return text
