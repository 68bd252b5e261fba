"""Conversations keep their items in order, whoever adds them, and lose none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from ossia.store.errors import DuplicateItem, MissingConversation, MissingItem
from ossia.store.records import ConversationItem, StoredConversation, StoredResponse
from ossia.store.store import Store

pytestmark = pytest.mark.anyio
Make = Callable[..., StoredResponse]
MakeConversation = Callable[..., StoredConversation]


def item(id: str) -> dict[str, Any]:
    return {"id": id, "type": "message", "content": "\0 any text"}


async def ids(store: Store, conversation: str = "conv_1") -> list[str]:
    return [found.item["id"] for found in await store.all_items(conversation)]


async def test_a_conversation_comes_back_as_it_was_stored(
    store: Store, conversation: MakeConversation
) -> None:
    made = conversation(metadata={"topic": "music"}, settings={"date": "2026-11-23"})
    await store.create_conversation(made, [item("a"), item("b")])
    assert await store.conversation("conv_1") == made
    assert await store.all_items("conv_1") == [
        ConversationItem(item("a"), None),
        ConversationItem(item("b"), None),
    ]


async def test_metadata_is_replaced(store: Store, conversation: MakeConversation) -> None:
    await store.create_conversation(conversation(metadata={"a": "1"}, settings={"s": 1}))
    changed = conversation(metadata={"b": "2"}, settings={"s": 1})
    assert await store.update_conversation("conv_1", {"b": "2"}) == changed
    assert await store.conversation("conv_1") == changed
    assert await store.update_conversation("conv_2", {}) is None


async def test_the_end_of_a_response_appends_what_went_in_and_came_out(
    store: Store, conversation: MakeConversation, response: Make
) -> None:
    await store.create_conversation(conversation(), [item("old")])
    await store.begin(response(conversation_id="conv_1"))
    assert await ids(store) == ["old"]
    ended = response(
        status="completed",
        conversation_id="conv_1",
        input_items=[item("old"), item("in")],
        body={"output": [item("thought"), item("out")]},
    )
    assert await store.finish(ended)
    assert not await store.finish(ended)
    assert [(i.item["id"], i.response_id) for i in await store.all_items("conv_1")] == [
        ("old", None),
        ("in", "resp_1"),
        ("thought", "resp_1"),
        ("out", "resp_1"),
    ]


async def test_a_response_ends_without_its_conversation(
    store: Store, conversation: MakeConversation, response: Make
) -> None:
    await store.create_conversation(conversation(), [item("a")])
    await store.begin(response(conversation_id="conv_1"))
    assert await store.delete_conversation("conv_1")
    ended = response(status="completed", conversation_id="conv_1", body={"output": [item("out")]})
    assert await store.finish(ended)
    assert await store.get("resp_1") == ended
    assert await store.conversation("conv_1") is None
    assert await store.all_items("conv_1") == []
    assert not await store.delete_conversation("conv_1")


async def test_items_are_added_all_or_none(store: Store, conversation: MakeConversation) -> None:
    await store.create_conversation(conversation(), [item("a")])
    for refused in (["b", "a"], ["b", "b"], ["x\0", "x\0"]):
        with pytest.raises(DuplicateItem) as error:
            await store.add_items("conv_1", [item(id) for id in refused])
        assert error.value.id == refused[1]
    assert await ids(store) == ["a"]
    with pytest.raises(MissingConversation):
        await store.add_items("conv_2", [item("a")])
    with pytest.raises(DuplicateItem):
        await store.create_conversation(conversation("conv_3"), [item("a"), item("a")])
    assert await store.conversation("conv_3") is None


async def test_one_id_may_be_in_two_conversations(
    store: Store, conversation: MakeConversation
) -> None:
    for id in ("conv_1", "conv_2"):
        await store.create_conversation(conversation(id), [item("a")])
    assert await store.delete_item("conv_1", "a")
    assert await ids(store, "conv_2") == ["a"]


async def test_items_are_read_in_pages(store: Store, conversation: MakeConversation) -> None:
    names = [f"item_{number}" for number in range(7)]
    await store.create_conversation(conversation(), [item(name) for name in names])
    for ascending in (True, False):
        read: list[str] = []
        while page := await store.items(
            "conv_1", after=read[-1] if read else None, limit=3, ascending=ascending
        ):
            read += [found.item["id"] for found in page]
        assert read == (names if ascending else names[::-1])
    with pytest.raises(MissingItem):
        await store.items("conv_1", after="nothing", limit=3, ascending=True)


async def test_appending_from_many_places_at_once_loses_nothing(
    url: str, conversation: MakeConversation, response: Make
) -> None:
    stores = [await Store.open(url) for _ in range(3)]

    async def client(store: Store, name: str) -> None:
        for turn in range(5):
            await store.add_items("conv_1", [item(f"{name}-{turn}-a"), item(f"{name}-{turn}-b")])
            answer = response(f"{name}-{turn}", conversation_id="conv_1")
            await store.begin(answer)
            output = {"output": [item(f"{name}-{turn}-c")]}
            assert await store.finish(
                response(answer.id, status="completed", conversation_id="conv_1", body=output)
            )

    try:
        await stores[0].create_conversation(conversation())
        await asyncio.gather(
            *(client(store, f"{n}{k}") for n, store in enumerate(stores) for k in "xyz")
        )
        found = await ids(stores[0])
    finally:
        for store in stores:
            await store.close()
    assert len(found) == 9 * 5 * 3
    for name in (f"{n}{k}" for n in range(3) for k in "xyz"):
        expected = [f"{name}-{turn}-{part}" for turn in range(5) for part in "abc"]
        assert [id for id in found if id.startswith(name)] == expected
    pairs = [found[at + 1] for at, id in enumerate(found) if id.endswith("-a")]
    assert all(id.endswith("-b") for id in pairs)  # what is added together stays together
