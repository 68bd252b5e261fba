"""Conversations: made, listed, changed, spoken in."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from .conftest import HELLO, WEATHER, Ask, as_input, kinds, result_of


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def texts(client: OpenAI, conversation_id: str) -> list[str]:
    """The texts of a conversation's messages, in order."""
    items = client.conversations.items.list(conversation_id, order="asc", limit=100)
    return [part.text for item in items if item.type == "message" for part in item.content]


def test_a_conversation_is_made_changed_and_deleted(openai_client: OpenAI) -> None:
    conversations = openai_client.conversations
    made = conversations.create(metadata={"topic": "birds"})
    assert made.id.startswith("conv_")
    assert conversations.retrieve(made.id) == made
    changed = conversations.update(made.id, metadata={"topic": "fish"})
    assert changed.metadata == {"topic": "fish"}
    assert conversations.retrieve(made.id) == changed
    assert conversations.delete(made.id).deleted
    for call in (conversations.retrieve, conversations.delete, conversations.items.list):
        with pytest.raises(NotFoundError) as missing:
            call(made.id)
        assert missing.value.code == "conversation_not_found"


def test_items_are_added_listed_and_taken_out(openai_client: OpenAI) -> None:
    items = openai_client.conversations.items
    conversation = openai_client.conversations.create(items=[user("One"), user("Two")])
    added = items.create(conversation.id, items=[user("Three"), user("Four")])
    assert [item.content[0].text for item in added.data] == ["Three", "Four"]
    assert texts(openai_client, conversation.id) == ["One", "Two", "Three", "Four"]
    first = items.list(conversation.id, order="asc", limit=3)
    assert first.has_more
    assert len(list(first)) == 4  # the SDK asks for the second page
    one = items.retrieve(first.data[0].id, conversation_id=conversation.id)
    assert one == first.data[0]
    items.delete(one.id, conversation_id=conversation.id)
    assert texts(openai_client, conversation.id) == ["Two", "Three", "Four"]
    for call in (items.retrieve, items.delete):
        with pytest.raises(NotFoundError) as missing:
            call(one.id, conversation_id=conversation.id)
        assert missing.value.param == "item_id"


def test_the_newest_items_are_listed_first(openai_client: OpenAI) -> None:
    conversation = openai_client.conversations.create(items=[user("One"), user("Two")])
    listed = openai_client.conversations.items.list(conversation.id)
    assert [item.content[0].text for item in listed] == ["Two", "One"]


def test_a_response_reads_its_conversation_and_adds_to_it(
    openai_client: OpenAI, ask: Ask, count: Any, script: Any
) -> None:
    conversation = openai_client.conversations.create(items=[user("I am in Paris.")])
    first = ask(conversation=conversation.id, tools=[WEATHER], input="What weather?")
    assert first.conversation.id == conversation.id
    second = ask(conversation={"id": conversation.id}, input=[result_of(first)])
    assert second.output_text == script.answer
    said = [user("I am in Paris."), user("What weather?"), *as_input(first), result_of(first)]
    assert second.usage.input_tokens == count(input=said)
    listed = list(openai_client.conversations.items.list(conversation.id, order="asc"))
    assert [item.type for item in listed] == [
        *("message", "message", *kinds(first), "function_call_output", *kinds(second)),
    ]
    ids = [item.id for response in (first, second) for item in response.output]
    assert [item.id for item in listed if item.id in ids] == ids


def test_a_response_that_is_not_stored_adds_nothing(openai_client: OpenAI, ask: Ask) -> None:
    conversation = openai_client.conversations.create(items=[user("One")])
    ask(conversation=conversation.id, store=False)
    assert texts(openai_client, conversation.id) == ["One"]


def test_the_prompt_is_that_of_the_items(openai_client: OpenAI, ask: Ask, count: Any) -> None:
    said = [user("One"), user("Two")]
    conversation = openai_client.conversations.create(items=said)
    assert count(conversation=conversation.id) == count(input=[*said, user("Hello")])


def test_an_item_that_was_taken_out_is_not_read(
    openai_client: OpenAI, ask: Ask, count: Any, script: Any
) -> None:
    conversation = openai_client.conversations.create()
    ask(conversation=conversation.id, input="How is the weather in the whole world?")
    whole = count(conversation=conversation.id)
    items = openai_client.conversations.items
    question, *_ = items.list(conversation.id, order="asc")
    items.delete(question.id, conversation_id=conversation.id)
    assert count(conversation=conversation.id) < whole
    answer = {"role": "assistant", "content": script.answer}
    assert count(conversation=conversation.id) == count(input=[answer, user("Hello")])


def test_an_item_that_was_added_is_read(openai_client: OpenAI, ask: Ask, count: Any) -> None:
    conversation = openai_client.conversations.create()
    ask(conversation=conversation.id)
    before = count(conversation=conversation.id)
    openai_client.conversations.items.create(conversation.id, items=[user("And more.")])
    assert count(conversation=conversation.id) > before


def test_responses_side_by_side_all_add_to_their_conversation(
    openai_client: OpenAI, ask: Ask
) -> None:
    conversation = openai_client.conversations.create()
    with ThreadPoolExecutor(8) as threads:
        asked = [
            threads.submit(ask, conversation=conversation.id, input=f"Question {number}")
            for number in range(8)
        ]
    responses = [one.result() for one in asked]
    listed = [
        item.id for item in openai_client.conversations.items.list(conversation.id, order="asc")
    ]
    assert len(listed) == len(set(listed)) == 8 * 3  # question, reasoning, answer
    for response in responses:
        own = [item.id for item in response.output]
        start = listed.index(own[0])
        assert listed[start : start + len(own)] == own  # together, after their question
    assert ask(conversation=conversation.id).status == "completed"


def test_only_one_thing_says_what_came_before(openai_client: OpenAI, ask: Ask) -> None:
    conversation = openai_client.conversations.create()
    with pytest.raises(BadRequestError, match="send one of them") as refused:
        ask(conversation=conversation.id, previous_response_id="resp_1")
    assert refused.value.param == "conversation"


def test_an_unknown_conversation_is_not_found(ask: Ask) -> None:
    with pytest.raises(NotFoundError) as missing:
        ask(conversation="conv_unknown")
    assert missing.value.code == "conversation_not_found"
    assert missing.value.param == "conversation"


def test_items_that_the_model_cannot_read_are_refused(openai_client: OpenAI) -> None:
    conversation = openai_client.conversations.create()
    unread: Any = {"type": "computer_call", "id": "1"}
    with pytest.raises(BadRequestError) as refused:
        openai_client.conversations.items.create(conversation.id, items=[user("One"), unread])
    assert refused.value.param == "items[1].type"
    assert texts(openai_client, conversation.id) == []
    with pytest.raises(BadRequestError, match="at most 100"):
        openai_client.conversations.create(items=[user("One")] * 101)


def test_an_item_may_not_come_twice(openai_client: OpenAI) -> None:
    item: Any = {**user("One"), "id": "msg_mine"}
    conversation = openai_client.conversations.create(items=[item])
    with pytest.raises(BadRequestError) as refused:
        openai_client.conversations.items.create(conversation.id, items=[item])
    assert refused.value.param == "items"
    assert texts(openai_client, conversation.id) == ["One"]


def test_responses_outlive_their_conversation(openai_client: OpenAI, ask: Ask) -> None:
    conversation = openai_client.conversations.create()
    response = ask(conversation=conversation.id)
    openai_client.conversations.delete(conversation.id)
    assert openai_client.responses.retrieve(response.id) == response
    assert HELLO["input"] in [
        item.content[0].text for item in openai_client.responses.input_items.list(response.id)
    ]
