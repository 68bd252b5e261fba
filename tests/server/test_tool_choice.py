"""Which functions may be called, must be called, and how many; with the network of the script."""

from __future__ import annotations

import json
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types.chat import ChatCompletion
from pydantic import BaseModel

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = "/v1/chat/completions"


def function(name: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or {}}}


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    fields = {"model": "scripted", "messages": HELLO, "temperature": 0, "max_tokens": 90, **fields}
    return client.chat.completions.create(**fields)


@pytest.fixture
def answer_at_once(script: Any, tokenizer: Any) -> dict[str, float]:
    """logit_bias under which the model neither reasons nor calls."""
    return {**script.final_only, str(tokenizer.encode("analysis")[0]): -5.0}


def called(completion: ChatCompletion) -> list[str]:
    calls = completion.choices[0].message.tool_calls or []
    return [call.function.name for call in calls if call.type == "function"]


def test_no_tools_are_shown_and_none_called(openai_client: OpenAI, script: Any) -> None:
    completion = ask(openai_client, tools=[script.tool], tool_choice="none", logit_bias=script.call)
    assert not called(completion)
    bare = ask(openai_client, logit_bias=script.call)
    assert completion.choices[0].message.content == bare.choices[0].message.content
    assert completion.usage is not None
    assert bare.usage is not None
    assert completion.usage.prompt_tokens == bare.usage.prompt_tokens


def test_auto_leaves_it_to_the_model(openai_client: OpenAI, script: Any) -> None:
    answering = ask(openai_client, tools=[script.tool], logit_bias=script.final_only)
    assert answering.choices[0].finish_reason == "stop"
    calling = ask(openai_client, tools=[script.tool], tool_choice="auto", logit_bias=script.call)
    assert calling.choices[0].finish_reason == "tool_calls"


def test_required_calls_though_the_model_would_answer(
    openai_client: OpenAI, script: Any, answer_at_once: Any
) -> None:
    fields = {"tools": [script.tool], "logit_bias": answer_at_once}
    assert ask(openai_client, **fields).choices[0].finish_reason == "stop"
    completion = ask(openai_client, tool_choice="required", **fields)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert called(completion)[0] == "weather"


def test_a_named_function_is_the_one_that_is_called(openai_client: OpenAI, script: Any) -> None:
    choice = {"type": "function", "function": {"name": "clock"}}
    tools = [script.tool, function("clock"), function("calendar")]
    completion = ask(openai_client, tools=tools, tool_choice=choice, **script.think_first)
    assert set(called(completion)) == {"clock"}
    assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_allowed_tools_are_the_only_ones(
    openai_client: OpenAI, script: Any, answer_at_once: Any, mode: str
) -> None:
    tools = [script.tool, function("clock")]
    names = [{"type": "function", "function": {"name": "clock"}}]
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": names}}
    completion = ask(openai_client, tools=tools, tool_choice=choice, logit_bias=script.call)
    assert set(called(completion)) == {"clock"}
    answering = ask(
        openai_client,
        tools=tools,
        tool_choice=choice,
        logit_bias=answer_at_once,
        parallel_tool_calls=False,
    )
    assert answering.choices[0].finish_reason == ("stop" if mode == "auto" else "tool_calls")
    everything = ask(openai_client, tools=tools, logit_bias=script.call)
    assert completion.usage is not None
    assert everything.usage is not None
    assert completion.usage.prompt_tokens == everything.usage.prompt_tokens


def test_two_calls_stand_in_one_turn(openai_client: OpenAI, script: Any) -> None:
    completion = ask(openai_client, tools=[script.tool], **script.call_twice)
    message = completion.choices[0].message
    assert called(completion) == ["weather", "weather"]
    calls = message.tool_calls or []
    assert [json.loads(c.function.arguments) for c in calls if c.type == "function"] == [
        {"city": "Paris"},
        {"city": "Paris"},
    ]
    assert len({call.id for call in calls}) == 2
    assert message.content is None
    assert message.reasoning == script.reasoning  # type: ignore[attr-defined]


def test_parallel_calls_can_be_turned_off(openai_client: OpenAI, script: Any) -> None:
    tools = [script.tool]
    completion = ask(openai_client, tools=tools, parallel_tool_calls=False, **script.call_twice)
    assert called(completion) == ["weather"]
    assert completion.choices[0].finish_reason == "tool_calls"


def test_parallel_calls_stream_in_order(openai_client: OpenAI, script: Any) -> None:
    stream = openai_client.chat.completions.create(
        model="scripted",
        messages=HELLO,  # type: ignore[arg-type]
        tools=[script.tool],
        stream=True,
        **script.call_twice,
    )
    deltas = [chunk.choices[0].delta for chunk in stream]
    parts = [part for delta in deltas for part in delta.tool_calls or ()]
    assert [part.index for part in parts] == sorted(part.index for part in parts)
    for index in (0, 1):
        first, *rest = (part for part in parts if part.index == index)
        assert first.id
        assert first.type == "function"
        assert first.function is not None
        assert first.function.name == "weather"
        assert not any(part.id or (part.function and part.function.name) for part in rest)
        texts = [part.function.arguments or "" for part in (first, *rest) if part.function]
        assert "".join(texts) == script.arguments
    assert len({part.id for part in parts if part.id}) == 2
    assert all(delta.content is None for delta in deltas)


def test_the_sdk_reads_the_arguments_of_a_streamed_pydantic_tool(
    openai_client: OpenAI, script: Any
) -> None:
    class weather(BaseModel):
        """Weather of a city."""

        city: Literal["Paris"]

    with openai_client.chat.completions.stream(
        model="scripted",
        messages=[{"role": "user", "content": "Hello"}],
        tools=[openai.pydantic_function_tool(weather)],
        **script.call_twice,
    ) as stream:
        done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
        completion = stream.get_final_completion()
    assert [event.index for event in done] == [0, 1]
    calls = completion.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [weather(city="Paris")] * 2
    assert completion.choices[0].message.content is None


def test_arguments_fit_the_schema_whatever_the_model_wants(
    openai_client: OpenAI, script: Any
) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Rome", "Oslo"]}, "days": {"const": 3}},
        "required": ["city", "days"],
        "additionalProperties": False,
    }
    tools = [function("weather", schema)]
    completion = ask(openai_client, tools=tools, parallel_tool_calls=False, logit_bias=script.call)
    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    arguments = json.loads(call.function.arguments)
    assert arguments["city"] in ("Rome", "Oslo")
    assert arguments["days"] == 3


class TestOlderForm:
    """`functions` and `function_call`, as clients of 2023 send them."""

    def test_a_call_has_no_id_and_a_finish_reason_of_its_own(
        self, openai_client: OpenAI, script: Any
    ) -> None:
        functions = [script.tool["function"]]
        completion = ask(openai_client, functions=functions, **script.call_twice)
        choice = completion.choices[0]
        assert choice.finish_reason == "function_call"
        assert choice.message.tool_calls is None
        assert choice.message.function_call is not None
        assert choice.message.function_call.name == "weather"
        assert choice.message.function_call.arguments == script.arguments

    def test_a_streamed_call_is_joined_by_its_reader(self, http: httpx.Client, script: Any) -> None:
        body = {"messages": HELLO, "functions": [script.tool["function"]], "stream": True}
        text = http.post(CHAT, json={**body, "logit_bias": script.call, "temperature": 0}).text
        events = [json.loads(line[6:]) for line in text.split("\n\n")[:-2]]
        parts = [event["choices"][0]["delta"].get("function_call", {}) for event in events]
        assert "".join(part.get("name", "") for part in parts) == "weather"
        assert "".join(part.get("arguments", "") for part in parts) == script.arguments
        assert events[-1]["choices"][0]["finish_reason"] == "function_call"

    def test_a_function_can_be_named_and_functions_hidden(
        self, openai_client: OpenAI, script: Any
    ) -> None:
        functions = [script.tool["function"], {"name": "clock", "parameters": {}}]
        choice = {"name": "clock"}
        named = ask(openai_client, functions=functions, function_call=choice, **script.think_first)
        assert named.choices[0].message.function_call is not None
        assert named.choices[0].message.function_call.name == "clock"
        bias = script.call
        hidden = ask(openai_client, functions=functions, function_call="none", logit_bias=bias)
        assert hidden.choices[0].message.function_call is None

    def test_the_conversation_goes_on_with_a_function_message(
        self, http: httpx.Client, script: Any
    ) -> None:
        call = {"name": "weather", "arguments": '{"city": "Oslo"}'}
        messages = [
            *HELLO,
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "weather", "content": "Snow."},
        ]
        body = {"messages": messages, "functions": [script.tool["function"]]}
        tokens = http.post("/tokenize", json=body).json()["tokens"]
        text = http.post("/detokenize", json={"tokens": tokens}).json()["text"]
        assert '<|message|>{"city": "Oslo"}<|call|>' in text
        assert "functions.weather to=assistant<|channel|>commentary<|message|>Snow.<|end|>" in text


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": "web"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "tool_choice.function.name",
        ),
        (
            {
                "tools": [function("f")],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [function("f"), function("g")]},
                },
            },
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
        (
            {
                "tools": [function("f")],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "none", "tools": [function("f")]},
                },
            },
            "tool_choice.allowed_tools.mode",
        ),
        (
            {
                "tools": [function("f")],
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": []},
                },
            },
            "tool_choice.allowed_tools.tools",
        ),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [function("f"), function("f")]}, "tools[1].function.name"),
        ({"tools": [function("f")], "functions": [{"name": "g"}]}, "functions"),
        ({"functions": [{"name": "f"}], "tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}], "function_call": "required"}, "function_call"),
        ({"functions": [{"name": "f"}], "function_call": {"name": "g"}}, "function_call.name"),
        ({"tools": [function("f")], "function_call": {"name": "f"}}, "function_call"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post(CHAT, json={"messages": HELLO, **fields})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].endswith(".")
