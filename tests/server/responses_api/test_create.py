"""POST /v1/responses as the SDK sees it: input, output, calls of the client's own tools."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from .conftest import HELLO, THINK_ONCE, WEATHER, Ask, as_input, kinds, result_of

NOTE = {"type": "custom", "name": "note", "description": "Writes a note."}
TRIPS = {"type": "namespace", "name": "trips", "description": "Trips.", "tools": [WEATHER]}


def test_a_text_gets_reasoning_and_an_answer(ask: Ask, script: Any) -> None:
    response = ask()
    assert kinds(response) == ["reasoning", "message"]
    reasoning, message = response.output
    assert reasoning.content[0].text == script.reasoning
    assert response.output_text == message.content[0].text == script.answer
    assert (response.status, message.status, message.phase) == (
        *("completed", "completed", "final_answer"),
    )
    assert [item.id[:3] for item in response.output] == ["rs_", "msg"]
    assert response.completed_at >= response.created_at
    assert response.error is None
    assert response.incomplete_details is None


def test_items_say_what_a_text_says(ask: Ask) -> None:
    texts = [
        "Hello",
        [{"role": "user", "content": "Hello"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}],
    ]
    assert len({ask(input=text).usage.input_tokens for text in texts}) == 1


def test_instructions_are_a_developer_message_of_this_response_alone(ask: Ask, count: Any) -> None:
    first = ask(instructions="Be brief.")
    developer = {"role": "developer", "content": "Be brief."}
    user = {"role": "user", "content": "Hello"}
    assert first.instructions == "Be brief."
    assert first.usage.input_tokens == count(input=[developer, user])
    assert first.usage.input_tokens > count(input=[user])
    follow = [user, *as_input(first), {"role": "user", "content": "And?"}]
    assert count(input="And?", previous_response_id=first.id) == count(input=follow)


def test_the_response_says_what_was_asked_for(openai_client: OpenAI) -> None:
    asked: dict[str, Any] = {
        "background": False,
        "max_output_tokens": 40,
        "max_tool_calls": 3,
        "metadata": {"topic": "birds"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "cache",
        "reasoning": {"effort": "low", "summary": "auto"},
        "safety_identifier": "someone",
        "temperature": 0.5,
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "tool_choice": "none",
        "tools": [WEATHER],
        "top_logprobs": 2,
        "top_p": 0.5,
        "truncation": "auto",
        "user": "somebody",
    }
    answered = openai_client.responses.create(model="scripted", input="Hello", **asked).to_dict()
    assert {name: answered[name] for name in asked} == asked
    assert (answered["model"], answered["object"]) == ("scripted", "response")
    assert answered["store"] is True


def test_what_was_not_asked_for_has_openais_defaults(ask: Ask) -> None:
    answered = ask(tools=[], temperature=1.0, extra_body={}, max_output_tokens=1).to_dict()
    expected = {
        "temperature": 1.0,
        "top_p": 1.0,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "truncation": "disabled",
        "metadata": {},
        "background": False,
        "store": True,
        "instructions": None,
        "previous_response_id": None,
        "user": None,
        "text": {"format": {"type": "text"}},
        "service_tier": "default",
    }
    assert {name: answered[name] for name in expected} == expected


def test_nothing_is_kept_of_a_response_that_is_not_stored(ask: Ask, openai_client: OpenAI) -> None:
    response = ask(store=False)
    assert response.to_dict()["store"] is False
    with pytest.raises(NotFoundError):
        openai_client.responses.retrieve(response.id)
    with pytest.raises(BadRequestError) as refused:
        ask(previous_response_id=response.id)
    assert refused.value.code == "previous_response_not_found"


class Place(BaseModel):
    """What the model is asked to answer with."""

    city: str


def test_an_answer_is_parsed_into_a_model_of_pydantic(openai_client: OpenAI) -> None:
    response = openai_client.responses.parse(**HELLO, **THINK_ONCE, text_format=Place)
    assert response.output_parsed == Place(city="Paris")
    assert response.text.format.type == "json_schema"
    assert response.text.format.name == "Place"


def test_a_call_is_answered_by_the_id_of_its_response(ask: Ask, script: Any) -> None:
    called = ask(tools=[WEATHER])
    assert kinds(called) == ["reasoning", "function_call"]
    call = called.output[-1]
    assert (call.name, call.arguments, call.status) == ("weather", script.arguments, "completed")
    answer = ask(previous_response_id=called.id, input=[result_of(called)])
    assert answer.output_text == script.answer
    assert answer.previous_response_id == called.id


@pytest.mark.parametrize("include", [(), ("reasoning.encrypted_content",)])
def test_a_call_is_answered_with_its_items(ask: Ask, script: Any, include: Any) -> None:
    called = ask(tools=[WEATHER], store=False, include=list(include))
    question = {"role": "user", "content": "Hello"}
    follow = [question, *as_input(called), result_of(called)]
    answer = ask(input=follow, store=False, tools=[WEATHER], tool_choice="none")
    assert answer.output_text == script.answer


def test_sealed_reasoning_stands_for_its_text(ask: Ask, count: Any) -> None:
    called = ask(tools=[WEATHER], include=["reasoning.encrypted_content"])
    question = {"role": "user", "content": "Hello"}
    reasoning, call = as_input(called)
    result = result_of(called)
    sealed = {name: value for name, value in reasoning.items() if name != "content"}
    unsealed = {name: value for name, value in sealed.items() if name != "encrypted_content"}
    whole = count(input=[question, reasoning, call, result])
    assert count(input=[question, sealed, call, result]) == whole
    assert count(input=[question, {**sealed, "content": None}, call, result]) == whole
    assert count(input=[result], previous_response_id=called.id) == whole
    assert count(input=[question, unsealed, call, result]) < whole


def test_reasoning_that_was_sealed_elsewhere_is_refused(ask: Ask) -> None:
    called = ask(tools=[WEATHER], include=["reasoning.encrypted_content"])
    reasoning, call = as_input(called)
    reasoning["encrypted_content"] = reasoning["encrypted_content"][:-4] + "AAAA"
    del reasoning["content"]
    with pytest.raises(BadRequestError) as refused:
        ask(input=[reasoning, call, result_of(called)])
    assert refused.value.code == "invalid_encrypted_content"
    assert refused.value.param == "input[0].encrypted_content"


def test_a_custom_tool_gets_plain_text(ask: Ask, script: Any) -> None:
    called = ask(tools=[NOTE])
    call = called.output[-1]
    assert (call.type, call.name, call.input) == ("custom_tool_call", "note", "Paris")
    answer = ask(previous_response_id=called.id, input=[result_of(called, "Written.")])
    assert answer.output_text == script.answer


def test_a_tool_of_a_namespace_is_called_by_both_names(ask: Ask, script: Any, count: Any) -> None:
    called = ask(tools=[TRIPS])
    call = called.output[-1]
    assert (call.namespace, call.name, call.arguments) == ("trips", "weather", script.arguments)
    answer = ask(previous_response_id=called.id, input=[result_of(called)])
    assert answer.output_text == script.answer
    echoed = [{"role": "user", "content": "Hello"}, *as_input(called), result_of(called)]
    assert count(input=echoed) == count(previous_response_id=called.id, input=[result_of(called)])


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ("auto", "weather"),
        ("required", "weather"),
        ("none", None),
        ({"type": "function", "name": "weather"}, "weather"),
        ({"type": "custom", "name": "note"}, "note"),
        (
            {
                "type": "allowed_tools",
                "mode": "auto",
                "tools": [{"type": "custom", "name": "note"}],
            },
            "note",
        ),
    ],
)
def test_a_choice_of_tools_is_kept_to(ask: Ask, choice: Any, called: str | None) -> None:
    response = ask(tools=[WEATHER, NOTE], tool_choice=choice)
    calls = [item.name for item in response.output if item.type.endswith("call")]
    assert calls == ([called] if called else [])
    assert response.to_dict()["tool_choice"] == choice


def test_an_answer_that_is_cut_off_is_incomplete(ask: Ask, openai_client: OpenAI) -> None:
    whole = ask()
    cut = ask(max_output_tokens=whole.usage.output_tokens - 2)  # the end, and a word
    assert cut.status == "incomplete"
    assert cut.incomplete_details.reason == "max_output_tokens"
    assert cut.output[-1].status == "incomplete"
    assert whole.output_text.startswith(cut.output_text)
    assert cut.output_text != whole.output_text
    assert openai_client.responses.retrieve(cut.id) == cut


def test_logprobs_come_with_the_answer(ask: Ask, script: Any) -> None:
    response = ask(include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = response.output[-1].content[0].logprobs
    assert b"".join(bytes(one.bytes) for one in logprobs).decode() == script.answer
    assert {len(one.top_logprobs) for one in logprobs} == {2}
    assert all(one.logprob <= 0 for one in logprobs)


def test_a_summary_repeats_the_reasoning(ask: Ask, script: Any) -> None:
    reasoning = ask(reasoning={"summary": "auto"}).output[0]
    assert [part.text for part in reasoning.summary] == [script.reasoning]


def test_reasoning_can_be_kept_from_the_client(ask: Ask, count: Any, script: Any) -> None:
    body = {**THINK_ONCE["extra_body"], "include_reasoning": False}
    hidden = ask(tools=[WEATHER], extra_body=body)
    assert hidden.output[0].content is None
    assert script.reasoning not in hidden.to_json()
    shown = ask(tools=[WEATHER])
    lengths = [
        count(input=[result_of(response)], previous_response_id=response.id)
        for response in (hidden, shown)
    ]
    assert lengths[0] == lengths[1]  # the server still knows it


def test_usage_counts_reasoning_and_what_was_cached(ask: Ask) -> None:
    first = ask(input="How is the weather? " * 20 + "usage", tools=[WEATHER])
    usage = first.usage
    assert usage.output_tokens_details.reasoning_tokens == 3
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    second = ask(previous_response_id=first.id, input=[result_of(first)], tools=[WEATHER])
    third = ask(previous_response_id=second.id, input=[result_of(second)], tools=[WEATHER])
    cached = [r.usage.input_tokens_details.cached_tokens for r in (first, second, third)]
    assert cached == sorted(set(cached))
    assert cached[1] >= (usage.total_tokens - 1) // 16 * 16  # all whole pages


def test_an_omitted_model_is_the_served_one(server: Any) -> None:
    answer = httpx.post(server.url + "/v1/responses", json={"input": "Hi", "max_output_tokens": 1})
    assert answer.json()["model"] == "scripted"
