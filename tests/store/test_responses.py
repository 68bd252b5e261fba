"""Responses: what is stored comes back, the first end counts, chains are whole or name the gap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from ossia.store.errors import MissingResponse
from ossia.store.records import StoredResponse
from ossia.store.store import Store

pytestmark = pytest.mark.anyio
Make = Callable[..., StoredResponse]


async def test_a_response_comes_back_as_it_was_stored(store: Store, response: Make) -> None:
    stored = response(
        background=True,
        previous_response_id="resp_0",
        conversation_id="conv_1",
        body={"id": "resp_1", "text": "naïve 🎻 \0 \ud800", "big": 2**70, "none": None},
        input_items=[{"id": "msg_1", "content": ["a", 1.5, True]}],
        transcript=bytes(range(256)),
        settings={"date": "2026-11-23"},
    )
    await store.begin(stored)
    assert await store.get("resp_1") == stored


async def test_a_response_goes_from_queued_to_its_end(store: Store, response: Make) -> None:
    await store.begin(response(status="queued"))
    await store.update("resp_1", status="in_progress", body={"step": 1})
    running = await store.get("resp_1")
    assert running is not None
    assert (running.status, running.body) == ("in_progress", {"step": 1})
    ended = response(status="completed", body={"step": 2}, transcript=b"all")
    assert await store.finish(ended)
    assert await store.get("resp_1") == ended


async def test_the_first_end_of_a_response_counts(store: Store, response: Make) -> None:
    await store.begin(response())
    await store.update("resp_1", status="cancelled", body={"by": "another server"})
    await store.update("resp_1", status="in_progress", body={})
    assert not await store.finish(response(status="completed"))
    kept = await store.get("resp_1")
    assert kept is not None
    assert (kept.status, kept.body) == ("cancelled", {"by": "another server"})


async def test_a_response_deleted_while_it_runs_does_not_come_back(
    store: Store, response: Make
) -> None:
    await store.begin(response())
    await store.append_events("resp_1", [(0, b"created")])
    assert await store.delete("resp_1")
    assert not await store.finish(response(status="completed"))
    await store.append_events("resp_1", [(1, b"completed")])
    assert await store.get("resp_1") is None
    assert await store.events("resp_1") == []
    assert not await store.delete("resp_1")


async def test_bodies_of_megabytes_are_stored(store: Store, response: Make) -> None:
    large = response(body={"text": "ä" * 4_000_000}, transcript=b"\0" * 4_000_000)
    await store.begin(large)
    assert await store.finish(replace(large, status="completed"))
    assert await store.get("resp_1") == replace(large, status="completed")


@pytest.mark.parametrize("id", ["", "\0", "\ud800", "no such", "'; --", "x" * 100_000])
async def test_ids_that_no_server_made_are_just_missing(store: Store, id: str) -> None:
    assert await store.get(id) is None
    assert not await store.delete(id)
    assert await store.events(id) == []
    assert await store.conversation(id) is None
    assert await store.item(id, id) is None
    with pytest.raises(MissingResponse):
        await store.chain(id)


async def test_events_come_back_in_order_and_from_anywhere(store: Store, response: Make) -> None:
    await store.begin(response())
    await store.append_events("resp_1", [(2, b"c"), (0, b"a"), (1, b"b")])
    await store.append_events("resp_1", [(2, b"another"), (3, b"\xff\0")])
    await store.append_events("resp_1", [])
    assert await store.events("resp_1") == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"\xff\0")]
    assert await store.events("resp_1", after=1) == [(2, b"c"), (3, b"\xff\0")]
    assert await store.events("resp_1", after=10**30) == []


async def _store_chain(store: Store, response: Make, length: int) -> list[StoredResponse]:
    """resp_0 to resp_N, each after the one before it."""
    links = [
        response(f"resp_{n}", previous_response_id=f"resp_{n - 1}" if n else None)
        for n in range(length)
    ]
    for link in links:
        await store.begin(link)
    return links


async def test_a_chain_is_told_from_its_begin(store: Store, response: Make) -> None:
    links = await _store_chain(store, response, 12)
    await store.begin(response("resp_branch", previous_response_id="resp_3"))
    assert await store.chain("resp_11") == links
    assert [link.id for link in await store.chain("resp_branch")][-2:] == ["resp_3", "resp_branch"]


async def test_a_chain_names_the_link_that_is_deleted(store: Store, response: Make) -> None:
    await _store_chain(store, response, 5)
    await store.delete("resp_2")
    with pytest.raises(MissingResponse) as missing:
        await store.chain("resp_4")
    assert missing.value.id == "resp_2"


async def test_a_chain_that_is_a_ring_ends(store: Store, response: Make) -> None:
    await store.begin(response("resp_a", previous_response_id="resp_b"))
    await store.begin(response("resp_b", previous_response_id="resp_a"))
    with pytest.raises(MissingResponse):
        await store.chain("resp_a")


async def test_transcripts_leave_out_what_is_missing(store: Store, response: Make) -> None:
    links = await _store_chain(store, response, 3)
    await store.delete("resp_1")
    found = await store.transcripts(["resp_2", "resp_1", "resp_0", "resp_0"])
    assert found == {"resp_0": links[0], "resp_2": links[2]}
    assert await store.transcripts([]) == {}


async def test_a_caller_that_is_cancelled_leaves_nothing_half_done(
    store: Store, response: Make
) -> None:
    for number in range(40):
        made = asyncio.create_task(store.begin(response(f"resp_{number}")))
        for _ in range(number):  # another point of the transaction each time
            await asyncio.sleep(0)
        made.cancel()
        await asyncio.gather(made, return_exceptions=True)
    # A call that was never started left nothing; every other goes on to its end.
    begun = [f"resp_{number}" for number in range(1, 40)]
    deadline = time.monotonic() + 30
    while len(await store.transcripts(begun)) < len(begun):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_stores_in_memory_are_apart(response: Make) -> None:
    one, two = await Store.open("sqlite://"), await Store.open("sqlite://")
    try:
        await asyncio.gather(*(one.begin(response(f"resp_{number}")) for number in range(20)))
        found = await asyncio.gather(*(one.get(f"resp_{number}") for number in range(20)))
        assert all(found)
        assert await two.get("resp_1") is None
    finally:
        await one.close()
        await two.close()


async def test_output_items_are_found_by_their_ids_until_their_response_is_gone(
    store: Store, response: Make
) -> None:
    items = [{"id": "rs_1", "type": "reasoning"}, {"id": "msg_1", "type": "message"}]
    await store.begin(response())
    await store.finish(response(status="completed", body={"output": items}))
    assert await store.find_items(["msg_1", "rs_1", "msg_2"]) == {
        "msg_1": items[1],
        "rs_1": items[0],
    }
    await store.delete("resp_1")
    assert await store.find_items(["msg_1"]) == {}
