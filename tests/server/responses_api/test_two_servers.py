"""Two servers with one store: what one of them began, the other one knows."""

from __future__ import annotations

from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from ..conftest import wait_for
from .conftest import ENDLESS, HELLO, WEATHER, Ask, result_of, status

SECONDS = 60  # a busy machine is slow


def begin(client: OpenAI, **fields: Any) -> str:
    """The id of a response that runs for some seconds in the background."""
    response = client.responses.create(**{**HELLO, **ENDLESS, **fields}, background=True)
    return response.id


def events(client: OpenAI, response_id: str, **fields: Any) -> list[Any]:
    return list(client.responses.retrieve(response_id, stream=True, timeout=SECONDS, **fields))


def test_a_response_can_be_fetched_and_continued_on_the_other(
    ask: Ask, ask_tools: Ask, tool_client: OpenAI, count: Any, script: Any
) -> None:
    called = ask(tools=[WEATHER])
    assert tool_client.responses.retrieve(called.id) == called
    answered = ask_tools(previous_response_id=called.id, input=[result_of(called)])
    assert answered.output_text == script.answer
    assert ask(previous_response_id=answered.id).usage.input_tokens == count(
        previous_response_id=answered.id
    )


def test_a_conversation_is_the_same_on_both(
    openai_client: OpenAI, tool_client: OpenAI, ask: Ask, ask_tools: Ask
) -> None:
    conversation = tool_client.conversations.create()
    first, second = ask(conversation=conversation.id), ask_tools(conversation=conversation.id)
    assert second.usage.input_tokens > first.usage.input_tokens
    listed = [
        [item.id for item in client.conversations.items.list(conversation.id)]
        for client in (openai_client, tool_client)
    ]
    assert listed[0] == listed[1]
    assert len(listed[0]) == 6


def test_a_response_that_runs_can_be_watched_on_the_other(
    openai_client: OpenAI, tool_client: OpenAI
) -> None:
    response_id = begin(openai_client, max_output_tokens=300)
    assert status(tool_client, response_id) in ("queued", "in_progress")
    seen = events(tool_client, response_id)
    assert seen[-1].type == "response.incomplete"
    assert seen == events(openai_client, response_id)
    assert events(tool_client, response_id, starting_after=5) == seen[6:]


def test_a_response_that_runs_can_be_called_off_on_the_other(
    openai_client: OpenAI, tool_client: OpenAI, server: Any
) -> None:
    response_id = begin(openai_client)
    assert tool_client.responses.cancel(response_id).status == "cancelled"
    assert status(tool_client, response_id) == "cancelled"
    server.wait_until_idle(SECONDS)
    wait_for(lambda: status(openai_client, response_id) == "cancelled", SECONDS)
    assert events(openai_client, response_id)[-1].response.status == "cancelled"


def test_a_response_that_runs_can_be_deleted_on_the_other(
    openai_client: OpenAI, tool_client: OpenAI, server: Any
) -> None:
    response_id = begin(openai_client, max_output_tokens=300)
    tool_client.responses.delete(response_id)
    with pytest.raises(NotFoundError):
        tool_client.responses.retrieve(response_id)
    server.wait_until_idle(SECONDS)

    def is_gone() -> bool:
        try:
            openai_client.responses.retrieve(response_id)
        except NotFoundError:
            return True
        return False

    wait_for(is_gone, SECONDS)
    assert "Traceback" not in server.output()
