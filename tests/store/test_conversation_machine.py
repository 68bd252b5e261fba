"""Whatever is done to a conversation, it reads like a plain list to which the same was done."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from ossia.store.errors import DuplicateItem, MissingItem
from ossia.store.records import ConversationItem, StoredConversation, StoredResponse
from ossia.store.store import Store

T = TypeVar("T")
names = st.sampled_from([*"abcdefgh", "\0", "\ud800", "ä"])
items = st.lists(st.builds(lambda id, n: {"id": id, "n": n}, names, st.integers()), max_size=4)
Item = dict[str, Any]


class Conversation(RuleBasedStateMachine):
    """One example; all of them share a store, each has a conversation of its own."""

    runner: asyncio.Runner
    store: Store

    def __init__(self) -> None:
        super().__init__()
        self.id = uuid.uuid4().hex
        self.model: list[ConversationItem] = []
        self.do(self.store.create_conversation(StoredConversation(self.id, 1, {}), []))

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def has(self, id: str) -> bool:
        return any(known.item["id"] == id for known in self.model)

    @rule(added=items)
    def add(self, added: list[Item]) -> None:
        ids = [item["id"] for item in added]
        if len(set(ids)) < len(ids) or any(self.has(id) for id in ids):
            with pytest.raises(DuplicateItem):
                self.do(self.store.add_items(self.id, added))
        else:
            self.do(self.store.add_items(self.id, added))
            self.model += [ConversationItem(item, None) for item in added]

    @rule(sent=items, output=items)
    def respond(self, sent: list[Item], output: list[Item]) -> None:
        running = StoredResponse(uuid.uuid4().hex, 1, "queued", False, None, self.id, {}, [])
        body = {"output": output}
        ended = StoredResponse(running.id, 1, "completed", False, None, self.id, body, sent)
        self.do(self.store.begin(running))
        assert self.do(self.store.finish(ended))
        for item in sent + output:
            if not self.has(item["id"]):
                self.model.append(ConversationItem(item, running.id))

    @rule(id=names)
    def delete(self, id: str) -> None:
        assert self.do(self.store.delete_item(self.id, id)) == self.has(id)
        self.model = [known for known in self.model if known.item["id"] != id]

    @rule(id=names)
    def read_one(self, id: str) -> None:
        expected = [known.item for known in self.model if known.item["id"] == id]
        assert self.do(self.store.item(self.id, id)) == (expected[0] if expected else None)

    @rule(after=st.none() | names, limit=st.integers(1, 5), ascending=st.booleans())
    def read_page(self, after: str | None, limit: int, ascending: bool) -> None:
        reading = self.store.items(self.id, after=after, limit=limit, ascending=ascending)
        ordered = self.model if ascending else self.model[::-1]
        if after is None:
            assert self.do(reading) == ordered[:limit]
        elif self.has(after):
            start = 1 + [known.item["id"] for known in ordered].index(after)
            assert self.do(reading) == ordered[start : start + limit]
        else:
            with pytest.raises(MissingItem):
                self.do(reading)

    @invariant()
    def reads_like_the_list(self) -> None:
        assert self.do(self.store.all_items(self.id)) == self.model


def test_a_conversation_is_a_list(url: str) -> None:
    with asyncio.Runner() as runner:
        Conversation.runner = runner
        Conversation.store = runner.run(Store.open(url))
        try:
            run_state_machine_as_test(
                Conversation, settings=settings(max_examples=12, stateful_step_count=12)
            )
        finally:
            runner.run(Conversation.store.close())
