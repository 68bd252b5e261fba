"""MCP servers that a request names by their address."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from .conftest import HELLO, SECRET, THINK_ONCE, Ask, as_input, kinds

CALL_ONCE: dict[str, Any] = {"max_tool_calls": 1}


def named(url: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "mcp",
        "server_label": "other",
        "server_url": url,
        "authorization": SECRET,
        "require_approval": "never",
        "allowed_tools": ["echo"],
        **fields,
    }


@pytest.fixture(scope="module")
def url(tool_server: Any) -> str:
    """Where a server of ours speaks MCP."""
    return f"{tool_server.url}/mcp"


def test_a_host_that_is_not_allowed_is_refused(ask: Ask, url: str) -> None:
    with pytest.raises(BadRequestError, match="--allowed-host") as refused:
        ask(tools=[named(url)])
    assert refused.value.param == "tools[0].server_url"


def test_the_tools_of_an_allowed_host_are_listed_and_called(
    ask_tools: Ask, url: str, script: Any
) -> None:
    response = ask_tools(tools=[named(url)], **CALL_ONCE)
    assert kinds(response) == ["mcp_list_tools", "reasoning", "mcp_call", "reasoning", "message"]
    assert [tool.name for tool in response.output[0].tools] == ["echo"]
    call = response.output[2]
    assert (call.name, call.output, call.server_label) == ("echo", "Paris", "other")
    assert response.output_text == script.answer


def test_a_named_server_is_asked_only_after_approval(ask_tools: Ask, url: str) -> None:
    tool = {name: value for name, value in named(url).items() if name != "require_approval"}
    asked = ask_tools(tools=[tool])
    assert kinds(asked)[-1] == "mcp_approval_request"
    yes = {
        "type": "mcp_approval_response",
        "approve": True,
        "approval_request_id": asked.output[-1].id,
    }
    answered = ask_tools(tools=[tool], previous_response_id=asked.id, input=[yes], **CALL_ONCE)
    assert (answered.output[0].type, answered.output[0].output) == ("mcp_call", "Paris")


def test_a_failure_of_a_remote_tool_is_one_of_the_call(ask_tools: Ask, url: str) -> None:
    response = ask_tools(tools=[named(url, allowed_tools=["calculator"])], **CALL_ONCE)
    call = response.output[2]
    assert (call.status, call.output) == ("failed", None)
    assert '"paris" is not known' in call.error.content[0]["text"]
    assert response.status == "completed"


def test_secrets_of_a_tool_are_not_sent_back(ask_tools: Ask, tool_client: OpenAI, url: str) -> None:
    header = {"X-Key": "hidden"}
    response = ask_tools(tools=[named(url, headers=header)], max_output_tokens=1)
    for shown in (response, tool_client.responses.retrieve(response.id)):
        assert SECRET not in shown.to_json()
        assert "hidden" not in shown.to_json()
        assert shown.tools[0].server_label == "other"


def test_a_wrong_key_is_an_error_of_the_list(ask_tools: Ask, url: str, script: Any) -> None:
    response = ask_tools(tools=[named(url, authorization="wrong")])
    assert kinds(response) == ["mcp_list_tools", "reasoning", "message"]
    assert response.output[0].tools == []
    assert response.output[0].error
    assert response.output_text == script.answer


def test_without_its_server_the_answer_still_comes(ask_tools: Ask, script: Any) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # but does not listen
        response = ask_tools(tools=[named(f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp")])
    assert kinds(response) == ["mcp_list_tools", "reasoning", "message"]
    assert "cannot be reached" in response.output[0].error
    assert response.output_text == script.answer


def test_a_server_that_is_away_is_listed_when_it_is_back(ask_tools: Ask, url: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp"
        first = ask_tools(tools=[named(away)])
    follow = [{"role": "user", "content": "Hello"}, *as_input(first)]
    second = ask_tools(tools=[named(url)], previous_response_id=first.id, **CALL_ONCE)
    echoed = ask_tools(tools=[named(url)], input=follow, **CALL_ONCE)
    for response in (second, echoed):
        assert response.output[0].type == "mcp_list_tools"
        assert [tool.name for tool in response.output[0].tools] == ["echo"]


def test_a_server_that_is_away_has_its_event(tool_client: OpenAI) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        tool = named(f"http://127.0.0.1:{nobody.getsockname()[1]}/mcp")
        fields = {**HELLO, **THINK_ONCE, "tools": [tool]}
        types = [event.type for event in tool_client.responses.create(**fields, stream=True)]
    assert "response.mcp_list_tools.failed" in types
    assert types[-1] == "response.completed"


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/mcp", "nothing", "http://"])
def test_what_is_no_address_is_refused(ask_tools: Ask, address: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        ask_tools(tools=[named(address)])
    assert refused.value.param == "tools[0].server_url"
