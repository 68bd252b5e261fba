"""Tools that the server runs in the middle of a response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from .conftest import HELLO, THINK_ONCE, WEATHER, Ask, as_input, comparable, kinds, strict_client

CALL_ONCE: dict[str, Any] = {"max_tool_calls": 1}  # then the model may only answer
ALL = ["reasoning", "mcp_call", "reasoning", "message"]
CALLED = ["reasoning", "mcp_call", "message"]


def mcp(*names: str, **fields: Any) -> dict[str, Any]:
    """The tools of the demo with these names."""
    return {"type": "mcp", "server_label": "demo", "allowed_tools": list(names), **fields}


ECHO, CALCULATOR = mcp("echo"), mcp("calculator")
ECHO_IF_ALLOWED = mcp("echo", require_approval="always")


def approval(response: Any, *, approve: bool = True, **fields: Any) -> dict[str, Any]:
    """The client's answer to the request at the end of a response."""
    request = response.output[-1]
    assert request.type == "mcp_approval_request"
    answer = {"type": "mcp_approval_response", "approval_request_id": request.id}
    return {**answer, "approve": approve, **fields}


def test_without_tools_in_the_request_the_model_has_those_of_the_server(
    ask_tools: Ask, script: Any
) -> None:
    fields = {name: value for name, value in HELLO.items() if name != "tools"}
    response = ask_tools(**fields, **CALL_ONCE, tools=None)
    assert kinds(response) == ALL
    call = response.output[1]
    assert (call.name, call.arguments, call.output) == ("echo", '{"text":"Paris"}', "Paris")
    assert (call.status, call.error, call.server_label) == ("completed", None, "ossia")
    assert response.output_text == script.answer


def test_an_empty_list_of_tools_is_none(ask_tools: Ask) -> None:
    assert kinds(ask_tools(tools=[])) == ["reasoning", "message"]


def test_a_choice_of_none_hides_the_tools_of_the_server(ask_tools: Ask) -> None:
    assert kinds(ask_tools(tools=None, tool_choice="none")) == ["reasoning", "message"]


def test_an_mcp_tool_lists_what_it_has_and_is_called(ask_tools: Ask) -> None:
    response = ask_tools(tools=[ECHO], **CALL_ONCE)
    assert kinds(response) == ["mcp_list_tools", *ALL]
    listing = response.output[0]
    assert [tool.name for tool in listing.tools] == ["echo"]
    assert listing.tools[0].input_schema["required"] == ["text"]
    assert response.output[2].server_label == listing.server_label == "demo"


def test_the_tools_are_listed_once_in_a_conversation(ask_tools: Ask) -> None:
    first = ask_tools(tools=[ECHO], **CALL_ONCE)
    second = ask_tools(tools=[ECHO], **CALL_ONCE, previous_response_id=first.id)
    assert kinds(second) == ALL
    question = {"role": "user", "content": "Hello"}
    echoed = [question, *as_input(first), question]
    assert kinds(ask_tools(tools=[ECHO], **CALL_ONCE, input=echoed)) == ALL


def test_events_of_a_call_come_in_their_order(tool_client: OpenAI, ask_tools: Ask) -> None:
    fields = {**HELLO, **THINK_ONCE, **CALL_ONCE, "tools": [ECHO]}
    events = list(tool_client.responses.create(**fields, stream=True))
    types = [event.type.removeprefix("response.") for event in events]
    assert types[:6] == [
        *("created", "in_progress"),
        *("output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed"),
        "output_item.done",
    ]
    own = [event for event in events if getattr(event, "output_index", None) == 2]
    own_types = [event.type.removeprefix("response.") for event in own]
    assert list(dict.fromkeys(own_types)) == [
        *("output_item.added", "mcp_call.in_progress"),
        *("mcp_call_arguments.delta", "mcp_call_arguments.done"),
        *("mcp_call.completed", "output_item.done"),
    ]
    assert own[0].item.output is None
    assert own[-1].item.output == "Paris"
    whole = ask_tools(tools=[ECHO], **CALL_ONCE)
    assert comparable(events[-1].response.output) == comparable(whole.output)


def test_a_tool_that_fails_is_told_to_the_model_and_the_turn_goes_on(
    ask_tools: Ask, script: Any
) -> None:
    response = ask_tools(tools=[CALCULATOR], **CALL_ONCE)
    call = response.output[2]
    assert (call.type, call.name, call.status, call.output) == (
        *("mcp_call", "calculator", "failed", None),
    )
    assert call.error.type == "mcp_tool_execution_error"
    assert '"paris" is not known' in call.error.content[0]["text"]
    assert response.status == "completed"
    assert response.output_text == script.answer


def test_a_failure_has_its_event(tool_client: OpenAI) -> None:
    fields = {**HELLO, **THINK_ONCE, **CALL_ONCE, "tools": [CALCULATOR]}
    types = [event.type for event in tool_client.responses.create(**fields, stream=True)]
    assert types.count("response.mcp_call.failed") == 1
    assert "response.mcp_call.completed" not in types
    assert types[-1] == "response.completed"


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_no_more_calls_are_run_than_are_allowed(ask_tools: Ask, limit: int) -> None:
    response = ask_tools(tools=[ECHO], max_tool_calls=limit)
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [call.status for call in calls] == ["completed"] * limit
    assert response.status == "completed"
    assert response.max_tool_calls == limit


def test_what_a_tool_said_is_read_again(ask_tools: Ask, tool_client: OpenAI) -> None:
    first = ask_tools(tools=[ECHO], **CALL_ONCE)
    question = {"role": "user", "content": "Hello"}
    counted = [
        tool_client.responses.input_tokens.count(model="scripted", tools=[ECHO], **fields)
        for fields in (
            {"input": "Hello", "previous_response_id": first.id},
            {"input": [question, *as_input(first), question]},
        )
    ]
    assert counted[0] == counted[1]


@pytest.mark.parametrize("stored", [True, False])
def test_a_call_that_was_approved_is_run(ask_tools: Ask, script: Any, stored: bool) -> None:
    asked = ask_tools(tools=[ECHO_IF_ALLOWED], store=stored)
    assert kinds(asked) == ["mcp_list_tools", "reasoning", "mcp_approval_request"]
    request = asked.output[-1]
    assert (request.name, request.arguments, request.server_label) == (
        *("echo", '{"text":"Paris"}', "demo"),
    )
    question = {"role": "user", "content": "Hello"}
    fields: dict[str, Any] = (
        {"previous_response_id": asked.id, "input": [approval(asked)]}
        if stored
        else {"input": [question, *as_input(asked), approval(asked)], "store": False}
    )
    answered = ask_tools(tools=[ECHO_IF_ALLOWED], **CALL_ONCE, **fields)
    assert kinds(answered) == ["mcp_call", "reasoning", "message"]
    call = answered.output[0]
    assert (call.approval_request_id, call.output) == (request.id, "Paris")
    assert answered.output_text == script.answer


@pytest.mark.parametrize("stored", [True, False])
def test_a_call_that_was_refused_is_not_run(ask_tools: Ask, script: Any, stored: bool) -> None:
    asked = ask_tools(tools=[ECHO_IF_ALLOWED], store=stored)
    refusal = approval(asked, approve=False, reason="Not today.")
    question = {"role": "user", "content": "Hello"}
    fields: dict[str, Any] = (
        {"previous_response_id": asked.id, "input": [refusal]}
        if stored
        else {"input": [question, *as_input(asked), refusal], "store": False}
    )
    answered = ask_tools(tools=[], **fields)
    assert kinds(answered) == ["reasoning", "message"]
    assert answered.output_text == script.answer


def test_an_approval_that_nobody_asked_for_is_refused(ask_tools: Ask) -> None:
    asked = ask_tools(tools=[ECHO_IF_ALLOWED])
    invented = {**approval(asked), "approval_request_id": "mcpr_1"}
    with pytest.raises(BadRequestError, match="waits for an answer") as refused:
        ask_tools(previous_response_id=asked.id, input=[invented], tools=[ECHO_IF_ALLOWED])
    assert refused.value.param == "input[0].approval_request_id"


def test_an_approved_call_runs_once(ask_tools: Ask) -> None:
    asked = ask_tools(tools=[ECHO_IF_ALLOWED])
    answered = ask_tools(
        tools=[ECHO_IF_ALLOWED],
        previous_response_id=asked.id,
        input=[approval(asked)],
        **CALL_ONCE,
    )
    with pytest.raises(BadRequestError, match="waits for an answer"):
        ask_tools(
            tools=[ECHO_IF_ALLOWED], previous_response_id=answered.id, input=[approval(asked)]
        )


def test_approval_can_be_asked_for_some_tools_only(ask_tools: Ask) -> None:
    some = mcp("echo", require_approval={"always": {"tool_names": ["calculator"]}})
    assert "mcp_call" in kinds(ask_tools(tools=[some], **CALL_ONCE))
    others = mcp("echo", require_approval={"never": {"tool_names": ["calculator"]}})
    assert "mcp_approval_request" in kinds(ask_tools(tools=[others]))


def test_tools_of_the_client_and_of_the_server_stand_side_by_side(
    ask_tools: Ask, script: Any
) -> None:
    choice = {"type": "function", "name": "weather"}
    response = ask_tools(tools=[ECHO, WEATHER], tool_choice=choice)
    assert response.output[-1].type == "function_call"
    chosen = {"type": "mcp", "server_label": "demo", "name": "echo"}
    response = ask_tools(tools=[WEATHER, ECHO], tool_choice=chosen, **CALL_ONCE)
    assert "mcp_call" in kinds(response)


def test_a_label_that_is_not_known_is_refused(ask_tools: Ask) -> None:
    tool = {"type": "mcp", "server_label": "nobody"}
    with pytest.raises(BadRequestError, match=r"no tool server called 'nobody' \(it has: demo, "):
        ask_tools(tools=[tool])


@pytest.fixture(scope="module")
def demo_client(start_server: Any) -> Iterator[OpenAI]:
    """The small model that comes with the package, with tools."""
    server = start_server("--tool-server", "demo", model="demo")
    with strict_client(server.url, timeout=120) as client:
        yield client


def test_the_demo_model_calculates(demo_client: OpenAI) -> None:
    response = demo_client.responses.create(
        model="scripted",
        input="What is 17 * 23?",
        temperature=0,
        extra_body={"seed": 1},
    )
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [(call.name, call.output, call.status) for call in calls] == [
        ("calculator", "391", "completed")
    ]
    assert "391" in response.output_text


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_chat_names_the_field_that_asks_for_too_much(tool_client: OpenAI, field: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        tool_client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "Hello"}],
            tools=[ECHO],  # type: ignore[list-item]
            **{field: 100_000},  # type: ignore[arg-type]
        )
    assert refused.value.param == field
