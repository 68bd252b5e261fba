"""Whole answers of POST /v1/chat/completions, through the official SDK in strict mode."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion

HELLO = [{"role": "user", "content": "Hello"}]


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    fields = {"model": "scripted", "messages": HELLO, "temperature": 0, "max_tokens": 60, **fields}
    return client.chat.completions.create(**fields)


def test_reasoning_and_answer_come_in_fields_of_their_own(
    openai_client: OpenAI, script: Any
) -> None:
    completion = ask(openai_client, **script.think_first)
    message = completion.choices[0].message
    assert message.content == script.answer
    assert message.reasoning == message.reasoning_content == script.reasoning  # type: ignore[attr-defined]
    assert completion.choices[0].finish_reason == "stop"
    usage = completion.usage
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.reasoning_tokens == 3
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_reasoning_is_counted_though_not_sent(openai_client: OpenAI, script: Any) -> None:
    extra = {"include_reasoning": False}
    completion = ask(openai_client, extra_body=extra, **script.think_first)
    assert completion.choices[0].message.content == script.answer
    assert "reasoning" not in completion.choices[0].message.model_dump()
    assert completion.usage is not None
    assert completion.usage.completion_tokens_details is not None
    assert completion.usage.completion_tokens_details.reasoning_tokens == 3


def test_a_tool_call_is_parsed_and_content_is_null(openai_client: OpenAI, script: Any) -> None:
    completion = ask(openai_client, tools=[script.tool], logit_bias=script.call)
    choice = completion.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("weather", script.arguments)


def test_a_conversation_with_a_tool_result_goes_on(openai_client: OpenAI, script: Any) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "reasoning": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny."},
    ]
    completion = ask(
        openai_client, messages=messages, tools=[script.tool], logit_bias=script.final_only
    )
    assert completion.choices[0].message.content == script.answer


def test_running_out_of_tokens_while_reasoning_returns_the_reasoning(
    openai_client: OpenAI,
) -> None:
    completion = ask(openai_client, max_tokens=4)
    choice = completion.choices[0]
    assert choice.finish_reason == "length"
    assert choice.message.content is None
    assert choice.message.reasoning == "Thinking"  # type: ignore[attr-defined]


def test_max_completion_tokens_goes_before_max_tokens(openai_client: OpenAI) -> None:
    completion = ask(openai_client, max_tokens=50, max_completion_tokens=5)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 5


@pytest.mark.parametrize("stop", [" is", ["nothing", "d is", "is \U0001f9a9"]])
def test_a_stop_string_ends_the_answer(
    openai_client: OpenAI, script: Any, stop: str | list[str]
) -> None:
    completion = ask(openai_client, logit_bias=script.final_only, stop=stop)
    assert completion.choices[0].finish_reason == "stop"
    assert completion.choices[0].message.content == ("The bird" if stop == " is" else "The bir")


def test_a_stop_token_ends_the_answer(openai_client: OpenAI, script: Any, tokenizer: Any) -> None:
    extra = {"stop_token_ids": tokenizer.encode(" is")}
    completion = ask(openai_client, logit_bias=script.final_only, extra_body=extra)
    assert completion.choices[0].finish_reason == "stop"
    assert (completion.choices[0].message.content or "").startswith("The bird")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 6


def test_logprobs_cover_the_visible_text_alone_and_its_bytes_join_to_it(
    openai_client: OpenAI, script: Any
) -> None:
    completion = ask(openai_client, logprobs=True, top_logprobs=3, **script.think_first)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert (
        bytes(b for token in logprobs.content for b in token.bytes or ()).decode() == script.answer
    )
    for token in logprobs.content:
        assert token.logprob <= 0
        likeliest = [top.logprob for top in token.top_logprobs]
        assert len(likeliest) == 3
        assert likeliest == sorted(likeliest, reverse=True)
        if not token.token.startswith("bytes:"):
            assert token.token.encode() == bytes(token.bytes or ())


def test_choices_are_numbered_and_a_seed_repeats_them(openai_client: OpenAI) -> None:
    # Past the end of the script every token is equally likely.
    fields = {"n": 3, "seed": 7, "temperature": 1, "max_tokens": 60}
    answers = [ask(openai_client, extra_body={"ignore_eos": True}, **fields) for _ in range(2)]
    first, second = ([c.message.model_dump() for c in answer.choices] for answer in answers)
    assert first == second
    assert len({str(message) for message in first}) == 3
    assert [choice.index for choice in answers[0].choices] == [0, 1, 2]
    assert answers[0].usage is not None
    assert answers[0].usage.completion_tokens == 180


def test_cached_prompt_tokens_are_reported(openai_client: OpenAI, script: Any) -> None:
    messages = [{"role": "user", "content": "A prompt that is asked twice. " * 30}]
    for _ in range(2):
        completion = ask(openai_client, messages=messages, logit_bias=script.final_only)
    assert completion.usage is not None
    assert completion.usage.prompt_tokens_details is not None
    cached = completion.usage.prompt_tokens_details.cached_tokens
    assert cached is not None
    assert completion.usage.prompt_tokens // 2 < cached < completion.usage.prompt_tokens


def test_the_model_may_be_left_out_and_unknown_fields_are_ignored(
    http: httpx.Client, script: Any
) -> None:
    body = {
        "messages": HELLO,
        "logit_bias": script.final_only,
        "temperature": 0,
        "user": "someone",
        "store": False,
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "something_else": [1, 2],
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "stop": None,
        "n": None,
    }
    answer = http.post("/v1/chat/completions", json=body).json()
    assert answer["model"] == "scripted"
    assert answer["choices"][0]["message"]["content"] == script.answer


def test_effort_is_part_of_the_prompt_and_none_means_low(http: httpx.Client) -> None:
    def prompt(effort: str) -> list[int]:
        body = {"messages": HELLO, "reasoning_effort": effort}
        tokens: list[int] = http.post("/tokenize", json=body).json()["tokens"]
        return tokens

    low = prompt("low")
    assert low == prompt("none") == prompt("minimal")
    assert len({tuple(prompt(effort)) for effort in ("low", "medium", "high")}) == 3
