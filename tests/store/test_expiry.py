"""What is not used for long enough is missing, then deleted; what is used stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Protocol

import pytest

from ossia.store import expiry
from ossia.store.errors import MissingConversation, MissingResponse
from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import MAX_AGE, Store

pytestmark = pytest.mark.anyio
Make = Callable[..., StoredResponse]
MakeConversation = Callable[..., StoredConversation]
DAY = 86400.0


class Clock(Protocol):
    """The fixture's; a test moves it on."""

    now: float  # seconds since 1970

    def __call__(self) -> float: ...


@pytest.fixture
async def store(url: str, clock: Clock) -> AsyncIterator[Store]:
    opened = await Store.open(url, clock=clock)
    yield opened
    await opened.close()


async def _ended(store: Store, made: StoredResponse) -> None:
    await store.begin(made)
    assert await store.finish(replace(made, status="completed"))


async def test_a_response_expires_thirty_days_after_its_end(
    store: Store, clock: Clock, response: Make
) -> None:
    await _ended(store, response())
    clock.now += MAX_AGE - 1
    assert await store.get("resp_1") is not None
    assert await store.expire() == 0
    clock.now += 2
    assert await store.get("resp_1") is None
    assert not await store.delete("resp_1")
    assert await store.transcripts(["resp_1"]) == {}
    with pytest.raises(MissingResponse):
        await store.chain("resp_1")
    assert await store.expire() == 1
    assert await store.expire() == 0


async def test_what_still_runs_does_not_expire(store: Store, clock: Clock, response: Make) -> None:
    await store.begin(response())
    clock.now += 2 * MAX_AGE
    assert await store.expire() == 0
    assert await store.get("resp_1") is not None


async def test_using_a_chain_keeps_all_of_it(store: Store, clock: Clock, response: Make) -> None:
    await _ended(store, response("resp_1"))
    await _ended(store, response("resp_2", previous_response_id="resp_1"))
    for _ in range(3):
        clock.now += 20 * DAY
        assert len(await store.chain("resp_2")) == 2
        assert await store.expire() == 0
    clock.now += 20 * DAY
    assert await store.transcripts(["resp_1"])  # of this one alone
    clock.now += 20 * DAY
    with pytest.raises(MissingResponse):
        await store.chain("resp_2")
    assert await store.expire() == 1
    assert await store.get("resp_1") is not None


async def test_a_chain_names_the_link_that_expired(
    store: Store, clock: Clock, response: Make
) -> None:
    await _ended(store, response("resp_1"))
    clock.now += 20 * DAY
    await _ended(store, response("resp_2", previous_response_id="resp_1"))
    clock.now += 20 * DAY
    for _ in ("expired", "deleted"):
        with pytest.raises(MissingResponse) as missing:
            await store.chain("resp_2")
        assert missing.value.id == "resp_1"
        await store.expire()


async def test_a_conversation_expires_after_its_last_use(
    store: Store, clock: Clock, conversation: MakeConversation
) -> None:
    await store.create_conversation(conversation(), [{"id": "a"}])
    clock.now += 20 * DAY
    await store.all_items("conv_1")
    clock.now += 20 * DAY
    await store.add_items("conv_1", [{"id": "b"}])
    clock.now += 20 * DAY
    assert len(await store.all_items("conv_1")) == 2
    clock.now += MAX_AGE + 1
    assert await store.conversation("conv_1") is None
    assert await store.all_items("conv_1") == []
    assert await store.item("conv_1", "a") is None
    assert await store.update_conversation("conv_1", {}) is None
    with pytest.raises(MissingConversation):
        await store.add_items("conv_1", [{"id": "c"}])
    assert await store.expire() == 1


async def test_many_are_deleted_in_batches(
    store: Store, clock: Clock, response: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expiry, "_BATCH", 3)
    for number in range(10):
        await store.begin(response(f"resp_{number}"))
        await store.update(f"resp_{number}", status="failed", body={})
    clock.now += MAX_AGE + 1
    assert await store.expire() == 10


async def test_without_an_age_nothing_expires(url: str, clock: Clock, response: Make) -> None:
    store = await Store.open(url, max_age=None, clock=clock)
    try:
        await _ended(store, response())
        clock.now += 1000 * MAX_AGE
        assert await store.expire() == 0
        assert await store.chain("resp_1")
    finally:
        await store.close()
