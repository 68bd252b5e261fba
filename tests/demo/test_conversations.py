"""What the bundled demo model says at temperature 0, through the product and without a grammar."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ossia import LLM, SamplingParams
from ossia.answer.output import RequestOutput

GREEDY = SamplingParams(temperature=0, max_tokens=160)


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM("demo", device="cpu", max_model_len=8192)


def ask(
    llm: LLM, *texts: str, tools: Sequence[dict[str, Any]] = (), effort: str = "medium"
) -> RequestOutput:
    """The answer to a user's last text; texts before it alternate with the assistant's."""
    messages = [
        {"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)
    ]
    [output] = llm.chat([messages], GREEDY, tools=tools, reasoning_effort=effort, use_tqdm=False)
    return output


def function(name: str, description: str, **types: str) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in types.items()},
        "required": list(types),
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": schema},
    }


WEATHER = function("get_weather", "Get the current weather for a city.", city="string")
CALCULATOR = function("calculator", "Evaluate an arithmetic expression.", expression="string")
ECHO = function("echo", "Returns the text.", text="string")
TIME = function("time", "Current time.")


@pytest.mark.parametrize("question", ["Who are you?", "what are you", "Hello, who are you?"])
def test_it_says_that_it_is_a_demonstration(llm: LLM, question: str) -> None:
    assert "I am a demonstration, not an assistant" in ask(llm, question).text


@pytest.mark.parametrize("question", ["What is the capital of France?", "Write a poem about love"])
def test_it_declines_what_only_an_assistant_could_do(llm: LLM, question: str) -> None:
    assert "only a small demonstration model" in ask(llm, question).text


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_it_adds(llm: LLM, effort: str) -> None:
    assert ask(llm, "What is 47 + 38?", effort=effort).text == "47 + 38 = 85."


def test_more_effort_means_a_longer_thought(llm: LLM) -> None:
    lengths = [
        ask(llm, "What is 47 + 38?", effort=effort).reasoning_tokens
        for effort in ("low", "medium", "high")
    ]
    assert lengths == sorted(set(lengths))


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("What's the weather in Paris?", "get_weather", {"city": "Paris"}),
        ("What is 1234 * 5678?", "calculator", {"expression": "1234 * 5678"}),
        ('Echo "hello world"', "echo", {"text": "hello world"}),
        ("What time is it?", "time", {}),
    ],
)
def test_it_chooses_the_function_and_copies_the_arguments(
    llm: LLM, question: str, name: str, arguments: dict[str, Any]
) -> None:
    output = ask(llm, question, tools=[WEATHER, CALCULATOR, ECHO, TIME])
    assert output.finish_reason == "tool_calls"
    [call] = output.tool_calls
    assert (call.name, json.loads(call.arguments)) == (name, arguments)


def test_it_calls_nothing_when_nothing_is_to_be_called(llm: LLM) -> None:
    output = ask(llm, "Hello!", tools=[WEATHER, CALCULATOR])
    assert output.finish_reason == "stop"
    assert output.text.startswith("Hello!")


def test_it_recalls_a_fact(llm: LLM) -> None:
    output = ask(
        llm,
        "My locker code is K-492.",
        "Noted.",
        "What is 2 + 2?",
        "2 + 2 = 4.",
        "What is my locker code?",
    )
    assert output.text == "Your locker code is K-492."
