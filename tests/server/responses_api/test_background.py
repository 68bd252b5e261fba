"""Responses in the background: acknowledged at once, watched, left, found again, called off."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response

from ..conftest import wait_for
from .conftest import ENDLESS, HELLO, THINK_ONCE, WEATHER, Ask, comparable, kinds, status

SECONDS = 60  # a busy machine is slow


def begin(client: OpenAI, **fields: Any) -> Response:
    return client.responses.create(**{**HELLO, **ENDLESS, **fields}, background=True)


def ended(client: OpenAI, response_id: str) -> Response:
    running = ("queued", "in_progress")
    wait_for(lambda: status(client, response_id) not in running, SECONDS)
    return client.responses.retrieve(response_id)


def watched(client: OpenAI, response_id: str, after: int | None = None) -> list[Any]:
    more = {} if after is None else {"starting_after": after}
    return list(client.responses.retrieve(response_id, stream=True, timeout=SECONDS, **more))


def test_it_is_acknowledged_before_it_is_done(openai_client: OpenAI) -> None:
    response = begin(openai_client, max_output_tokens=300)
    assert response.status in ("queued", "in_progress")
    assert response.background
    final = ended(openai_client, response.id)
    assert final.status == "incomplete"
    assert final.usage.output_tokens == 300


def test_it_comes_to_what_a_response_in_the_foreground_is(
    openai_client: OpenAI, ask: Ask, script: Any
) -> None:
    response = begin(openai_client, **THINK_ONCE, tools=[WEATHER], max_output_tokens=100)
    final = ended(openai_client, response.id)
    assert comparable(final.output) == comparable(ask(tools=[WEATHER]).output)
    assert final.completed_at is not None


def test_a_stream_that_was_left_goes_on_where_it_was_left(openai_client: OpenAI) -> None:
    fields = {**HELLO, **ENDLESS, "max_output_tokens": 400}
    seen = []
    with openai_client.responses.create(**fields, background=True, stream=True) as events:
        for event in events:
            seen.append(event)
            if len(seen) == 40:
                break
    assert [event.type for event in seen[:3]] == [
        *("response.created", "response.queued", "response.in_progress"),
    ]
    response_id = seen[0].response.id
    seen += watched(openai_client, response_id, seen[-1].sequence_number)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.incomplete"
    deltas = [event.delta for event in seen if event.type.endswith("_text.delta")]
    final = openai_client.responses.retrieve(response_id)
    assert "".join(deltas) == "".join(item.content[0].text for item in final.output)


def test_its_events_are_kept(openai_client: OpenAI) -> None:
    response = begin(openai_client, max_output_tokens=60)
    live = watched(openai_client, response.id)
    ended(openai_client, response.id)
    assert watched(openai_client, response.id) == live
    assert watched(openai_client, response.id, 10) == live[11:]
    assert [event.sequence_number for event in live] == list(range(len(live)))


def test_several_may_watch_it(openai_client: OpenAI) -> None:
    response = begin(openai_client, max_output_tokens=400)
    first = openai_client.responses.retrieve(response.id, stream=True, timeout=SECONDS)
    second = openai_client.responses.retrieve(response.id, stream=True, timeout=SECONDS)
    seen = []
    for one, other in zip(first, second, strict=True):
        assert one == other
        seen.append(one)
    assert seen[-1].type == "response.incomplete"


def test_it_can_be_called_off(openai_client: OpenAI, server: Any) -> None:
    response = begin(openai_client)
    events = openai_client.responses.retrieve(response.id, stream=True, timeout=SECONDS)
    for event in events:
        if event.type == "response.reasoning_text.delta":
            break
    cancelled = openai_client.responses.cancel(response.id)
    assert cancelled.status == "cancelled"
    assert kinds(cancelled)[0] == "reasoning"  # what there was of it is kept
    assert openai_client.responses.retrieve(response.id) == cancelled
    *_, last = events
    assert last.response.status == "cancelled"
    server.wait_until_idle(SECONDS)
    assert openai_client.responses.cancel(response.id) == cancelled


def test_what_has_ended_stays_as_it_is_when_it_is_called_off(
    openai_client: OpenAI, ask: Ask
) -> None:
    response = ask()
    assert openai_client.responses.cancel(response.id) == response


def test_deleting_it_ends_it(openai_client: OpenAI, server: Any) -> None:
    response = begin(openai_client)
    openai_client.responses.delete(response.id)
    with pytest.raises(NotFoundError):
        openai_client.responses.retrieve(response.id)
    server.wait_until_idle(SECONDS)


def test_it_cannot_be_continued_before_it_has_ended(openai_client: OpenAI, ask: Ask) -> None:
    response = begin(openai_client)
    with pytest.raises(BadRequestError) as refused:
        ask(previous_response_id=response.id)
    assert refused.value.code == "previous_response_running"
    openai_client.responses.cancel(response.id)
    assert ask(previous_response_id=response.id, max_output_tokens=1).usage.output_tokens == 1


def test_it_needs_to_be_stored(ask: Ask) -> None:
    with pytest.raises(BadRequestError, match="background needs store") as refused:
        ask(background=True, store=False)
    assert refused.value.param == "background"


def test_a_request_that_cannot_be_answered_is_refused_at_once(openai_client: OpenAI) -> None:
    with pytest.raises(BadRequestError):
        begin(openai_client, input="word " * 3000)
