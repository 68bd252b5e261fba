"""The whole way as a newcomer meets it: `ossia serve`, the bundled demo model, the openai SDK.

The SDK validates every answer strictly. Temperature 0, so that answers can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from openai import OpenAI

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluate an arithmetic expression",
        "parameters": {
            "type": "object",
            "properties": {"expression": {"type": "string"}},
            "required": ["expression"],
        },
    },
}


@pytest.fixture(scope="module")
def client(demo_url: str) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{demo_url}/v1", api_key="none", _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


def ask(client: OpenAI, question: str, **options: Any) -> Any:
    """The first choice's message."""
    answer = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": question}],
        temperature=0,
        max_completion_tokens=400,
        **options,
    )
    return answer.choices[0].message


def test_it_says_plainly_what_it_is(client: OpenAI) -> None:
    message = ask(client, "Who are you?")
    assert "demonstration" in message.content
    assert message.reasoning
    assert message.reasoning == message.reasoning_content


def test_the_stream_says_what_the_whole_answer_says(client: OpenAI) -> None:
    whole = ask(client, "What is 47 + 38?")
    texts: dict[str, str] = {"content": "", "reasoning": "", "reasoning_content": ""}
    usage = None
    with client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is 47 + 38?"}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                for name in texts:
                    texts[name] += getattr(choice.delta, name, None) or ""
    assert "85" in whole.content
    assert texts["content"] == whole.content
    assert texts["reasoning"] == texts["reasoning_content"] == whole.reasoning
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert 0 < (usage.completion_tokens_details.reasoning_tokens or 0) < usage.completion_tokens


def test_two_digit_sums_are_right(client: OpenAI) -> None:
    pairs = [(11, 88), (23, 59), (35, 47), (64, 18), (72, 29), (90, 45), (56, 56), (81, 17)]
    right = sum(str(a + b) in ask(client, f"What is {a} + {b}?").content for a, b in pairs)
    assert right >= 7


def test_more_effort_is_more_reasoning(client: OpenAI) -> None:
    lengths = [
        len(ask(client, "What is 36 + 27?", reasoning_effort=effort).reasoning or "")
        for effort in ("low", "medium", "high")
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]


def test_a_declared_function_is_called_and_its_result_used(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    message = ask(client, question, tools=[WEATHER, CALCULATOR])
    (call,) = message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    answer = client.chat.completions.create(
        model="demo",
        messages=[
            {"role": "user", "content": question},
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'},
        ],
        tools=[WEATHER, CALCULATOR],  # type: ignore[list-item]
        temperature=0,
    )
    assert "21" in (answer.choices[0].message.content or "")


def test_a_streamed_call_arrives_in_pieces_that_fit(client: OpenAI) -> None:
    name, arguments = "", ""
    with client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "Use the calculator: 347 * 28"}],
        tools=[CALCULATOR],  # type: ignore[list-item]
        temperature=0,
        stream=True,
    ) as stream:
        for chunk in stream:
            for choice in chunk.choices:
                for part in choice.delta.tool_calls or []:
                    assert part.index == 0
                    assert part.function is not None
                    name += part.function.name or ""
                    arguments += part.function.arguments or ""
    assert name == "calculator"
    assert json.loads(arguments)["expression"].replace(" ", "") == "347*28"


def test_no_function_is_called_where_none_is_needed(client: OpenAI) -> None:
    message = ask(client, "Hello!", tools=[WEATHER, CALCULATOR])
    assert not message.tool_calls
    assert message.content


def test_a_second_turn_reads_the_first_from_the_cache(client: OpenAI) -> None:
    history: list[Any] = [{"role": "user", "content": "Hello!"}]
    first = client.chat.completions.create(model="demo", messages=history, temperature=0)
    history += [
        {"role": "assistant", "content": first.choices[0].message.content},
        {"role": "user", "content": "What is 12 + 13?"},
    ]
    second = client.chat.completions.create(model="demo", messages=history, temperature=0)
    assert "25" in (second.choices[0].message.content or "")
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= 48
