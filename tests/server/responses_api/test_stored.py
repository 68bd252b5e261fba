"""Stored responses: fetched, listed, continued, forgotten; and what a prompt would cost."""

from __future__ import annotations

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from .conftest import HELLO, WEATHER, Ask, as_input, comparable, result_of


def test_a_response_is_fetched_as_it_was_answered(openai_client: OpenAI, ask: Ask) -> None:
    response = ask(tools=[WEATHER], metadata={"a": "b"})
    assert openai_client.responses.retrieve(response.id) == response


@pytest.mark.parametrize("fields", [{}, {"tools": [WEATHER]}, {"reasoning": {"summary": "auto"}}])
def test_events_of_what_has_ended_are_made_again(
    openai_client: OpenAI, ask: Ask, fields: Any
) -> None:
    response = ask(**fields)
    events = list(openai_client.responses.retrieve(response.id, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert events[-1].response == response
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert comparable(done) == comparable(response.output)
    later = list(openai_client.responses.retrieve(response.id, stream=True, starting_after=3))
    assert later == events[4:]


def test_an_item_is_sent_by_its_id_alone(ask: Ask, count: Any) -> None:
    first = ask()
    question = {"role": "user", "content": "Hello"}
    whole = [question, *as_input(first), question]
    references = [{"type": "item_reference", "id": item.id} for item in first.output]
    assert count(input=[question, *references, question]) == count(input=whole)
    with pytest.raises(NotFoundError, match="not stored here"):
        ask(input=[question, {"type": "item_reference", "id": "msg_none"}])


def test_the_end_is_told_to_whoever_has_seen_it_all(openai_client: OpenAI, ask: Ask) -> None:
    response = ask()
    [last] = openai_client.responses.retrieve(response.id, stream=True, starting_after=500)
    assert last.response == response
    assert last.sequence_number == 501


def test_input_items_come_a_page_at_a_time(openai_client: OpenAI, ask: Ask) -> None:
    texts = [f"Question {number}" for number in range(5)]
    response = ask(input=[{"role": "user", "content": text} for text in texts])
    items = openai_client.responses.input_items

    def said(page: Any) -> list[str]:
        return [item.content[0].text for item in page]

    assert said(items.list(response.id, limit=2)) == texts[::-1]  # the SDK asks for each page
    assert said(items.list(response.id, order="asc", limit=100)) == texts
    page = items.list(response.id, order="asc", limit=2)
    assert (said(page.data), page.has_more) == (texts[:2], True)
    page = items.list(response.id, order="asc", limit=2, after=page.data[-1].id)
    assert said(page.data) == texts[2:4]
    page = items.list(response.id, order="asc", limit=2, after=page.data[-1].id)
    assert (said(page.data), page.has_more) == (texts[4:], False)


def test_input_items_are_those_of_the_request_alone(openai_client: OpenAI, ask: Ask) -> None:
    first = ask(tools=[WEATHER])
    second = ask(previous_response_id=first.id, input=[result_of(first)])
    [item] = openai_client.responses.input_items.list(second.id)
    assert (item.type, item.output) == ("function_call_output", "Sunny.")


def test_items_in_their_shortest_form_are_listed_in_full(openai_client: OpenAI, ask: Ask) -> None:
    sent: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hm."},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Well."}]},
        {"type": "function_call", "call_id": "1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "1", "output": "Sunny.", "status": None},
        {"type": "custom_tool_call", "call_id": "2", "name": "note", "input": "Paris"},
        {"type": "custom_tool_call_output", "call_id": "2", "output": "Written."},
        {"type": "mcp_call", "server_label": "demo", "name": "echo", "arguments": "{}"},
    ]
    response = ask(input=sent, max_output_tokens=1)
    listed = list(openai_client.responses.input_items.list(response.id, order="asc"))
    assert [item.type for item in listed] == [item.get("type", "message") for item in sent]
    assert len({item.id for item in listed}) == len(sent)
    assert [item.content[0].text for item in listed[:4]] == ["Be brief.", "Hello", "Hm.", "Hm."]


@pytest.mark.parametrize("fields", [{"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "x"}])
def test_a_page_that_cannot_be_had_is_refused(openai_client: OpenAI, ask: Ask, fields: Any) -> None:
    response = ask(max_output_tokens=1)
    with pytest.raises(BadRequestError) as refused:
        openai_client.responses.input_items.list(response.id, **fields)
    assert refused.value.param == next(iter(fields))


def test_a_prompt_is_counted_without_being_answered(
    openai_client: OpenAI, ask: Ask, server: Any
) -> None:
    fields: dict[str, Any] = {"input": "How are you?", "tools": [WEATHER], "instructions": "Hm."}
    counted = openai_client.responses.input_tokens.count(model="scripted", **fields)
    assert counted.object == "response.input_tokens"
    assert counted.input_tokens == ask(**fields).usage.input_tokens


def test_a_deleted_response_is_gone(openai_client: OpenAI, ask: Ask) -> None:
    response = ask(max_output_tokens=1)
    openai_client.responses.delete(response.id)
    for call in (
        openai_client.responses.retrieve,
        openai_client.responses.delete,
        openai_client.responses.cancel,
        openai_client.responses.input_items.list,
    ):
        with pytest.raises(NotFoundError) as missing:
            call(response.id)
        assert missing.value.code == "not_found"
        assert missing.value.param == "response_id"


def test_an_unknown_response_cannot_be_continued(ask: Ask) -> None:
    with pytest.raises(BadRequestError, match="'resp_unknown', which is not stored") as refused:
        ask(previous_response_id="resp_unknown")
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"


def test_a_chain_with_a_deleted_link_cannot_be_continued(openai_client: OpenAI, ask: Ask) -> None:
    chain = [ask()]
    for _ in range(2):
        chain.append(ask(previous_response_id=chain[-1].id))
    openai_client.responses.delete(chain[1].id)
    with pytest.raises(BadRequestError, match=chain[1].id) as refused:
        ask(previous_response_id=chain[2].id)
    assert refused.value.code == "previous_response_not_found"
    assert ask(previous_response_id=chain[0].id).status == "completed"
    assert openai_client.responses.retrieve(chain[2].id) == chain[2]


def test_a_compacted_conversation_is_input_again(openai_client: OpenAI, count: Any) -> None:
    said = [
        {"role": "developer", "content": "Be brief."},
        *({"role": "user", "content": f"Fact {number}: water is wet."} for number in range(100)),
    ]
    compacted = openai_client.responses.compact(model="scripted", input=said)
    [item] = [one for one in compacted.output if one.type == "compaction"]
    assert compacted.usage.output_tokens > 0
    follow = [*as_input(compacted), {"role": "user", "content": "Go on."}]
    assert count(input=follow[:-1]) < count(input=said)
    assert count(input=follow) > count(input=follow[-1:])
    assert item.id.startswith("cmp_")


def test_a_stored_conversation_can_be_compacted(openai_client: OpenAI, ask: Ask) -> None:
    first = ask()
    compacted = openai_client.responses.compact(model="scripted", previous_response_id=first.id)
    answer = ask(input=[*as_input(compacted), {"role": "user", "content": "Go on."}])
    assert answer.status == "completed"


def test_a_prompt_is_counted_with_its_history(openai_client: OpenAI, ask: Ask) -> None:
    first = ask()
    counted = openai_client.responses.input_tokens.count(**HELLO, previous_response_id=first.id)
    assert counted.input_tokens == ask(previous_response_id=first.id).usage.input_tokens
