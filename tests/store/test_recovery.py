"""What a server leaves unfinished is found by another: once, and only when the server is dead."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from ossia.store import owners, tables
from ossia.store.opening import open_database
from ossia.store.records import StoredResponse
from ossia.store.store import Store

pytestmark = pytest.mark.anyio
Make = Callable[..., StoredResponse]
PATIENCE = 60  # seconds

# Begins responses and finishes each second of them, and tells what is done. It never ends itself.
WRITER = """
import asyncio, itertools, sys
from dataclasses import replace
from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import Store

async def main():
    store = await Store.open(sys.argv[1])
    await store.create_conversation(StoredConversation("conv", 1, {}), [])
    for n in itertools.count():
        body = {"output": [{"id": f"item_{n}", "text": "long " * 2000}]}
        response = StoredResponse(f"resp_{n}", n, "queued", True, None, "conv", {}, [])
        await store.begin(response)
        print("begun", n, flush=True)
        await store.append_events(response.id, [(0, b"created"), (1, b"in_progress")])
        print("told", n, flush=True)
        if n % 2:
            await store.finish(replace(response, status="completed", body=body))
            print("finished", n, flush=True)

asyncio.run(main())
"""


@pytest.fixture
async def stores(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Store]]:
    """Three of one database, as of three servers, whose leases change only when a test says so."""
    monkeypatch.setattr(owners, "BEAT_SECONDS", 3600.0)
    monkeypatch.setattr(owners, "LEASE_SECONDS", 7200.0)
    opened = [await Store.open(url) for _ in range(3)]
    yield opened
    for store in opened:
        await store.close()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@asynccontextmanager
async def _changing(url: str) -> AsyncIterator[Callable[[Any], Awaitable[Any]]]:
    """Says something to the database behind the back of stores."""
    database = await open_database(url)

    async def say(statement: Any) -> Any:
        return await database.write(lambda connection: connection.execute(statement))

    try:
        yield say
    finally:
        await database.close()


def _ids(responses: list[StoredResponse]) -> list[str]:
    return [response.id for response in responses]


async def test_what_a_living_server_works_on_is_left_to_it(
    stores: list[Store], response: Make
) -> None:
    await stores[0].begin(response())
    assert await stores[1].recover() == []
    assert await stores[0].recover() == []


async def test_what_a_closed_server_left_is_taken_over(url: str, response: Make) -> None:
    first = await Store.open(url)
    await first.begin(response("resp_queued", status="queued"))
    await first.begin(response("resp_running"))
    await first.begin(response("resp_ended"))
    await first.finish(response("resp_ended", status="completed"))
    await first.close()
    second = await Store.open(url)
    assert _ids(await second.recover()) == ["resp_queued", "resp_running"]
    assert await second.recover() == []
    assert await second.finish(response("resp_queued", status="failed"))
    await second.close()  # the other one it leaves again
    third = await Store.open(url)
    assert await third.recover() == [response("resp_running")]
    await third.close()


async def test_several_servers_that_recover_at_once_get_each_response_once(
    url: str, stores: list[Store], response: Make
) -> None:
    for round in range(5):
        dead = await Store.open(url)
        begun = [f"resp_{round}_{number}" for number in range(10)]
        for id in begun:
            await dead.begin(response(id))
        await dead.close()
        taken = await asyncio.gather(*(store.recover() for store in stores * 2))
        assert sorted(id for some in taken for id in _ids(some)) == begun


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
async def test_nothing_that_was_told_is_lost_when_a_server_is_killed(
    url: str, reaped: bool
) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert writer.stdout is not None
        told = [tuple(writer.stdout.readline().split()) for _ in range(100)]
        assert ("begun", "39") in told, "the writer failed"
        writer.send_signal(signal.SIGKILL)  # it is somewhere in its next write
        told += [tuple(line.split()) for line in writer.stdout.read().splitlines(keepends=True)]
        # Its output has ended, so that it is dead; a parent that does not ask keeps it a zombie.
        if reaped:
            writer.wait(PATIENCE)
        store = await Store.open(url)
        recovered = await store.recover()
        for what, number in told:
            id = f"resp_{number}"
            kept = await store.get(id)
            assert kept is not None
            if what == "told":
                assert len(await store.events(id)) == 2
            if what == "finished":
                assert kept.status == "completed"
                assert await store.item("conv", f"item_{number}") == kept.body["output"][0]
            elif int(number) % 2 == 0:
                assert id in _ids(recovered)
        # What was finished is in the conversation, and what is in the conversation was finished.
        items = [found.response_id for found in await store.all_items("conv")]
        ended = [id for id in items if id and (await store.get(id)).status == "completed"]  # type: ignore[union-attr]
        assert items == ended == [f"resp_{number}" for number in range(1, 2 * len(items), 2)]
        assert not set(items) & set(_ids(recovered))
        await store.close()
    finally:
        writer.kill()
        writer.wait(PATIENCE)
        if writer.stdout is not None:
            writer.stdout.close()


async def test_an_owner_elsewhere_is_dead_when_its_lease_is_over(
    url: str, stores: list[Store], response: Make
) -> None:
    await stores[0].begin(response())
    async with _changing(url) as say:
        await say(update(tables.owners).values(host="elsewhere", process=1))
        assert await stores[1].recover() == []
        await say(update(tables.owners).values(alive_until=time.time() - 1))
        assert _ids(await stores[1].recover()) == ["resp_1"]


async def test_a_process_that_has_the_number_of_a_dead_one_is_another(
    url: str, stores: list[Store], response: Make
) -> None:
    await stores[0].begin(response())
    async with _changing(url) as say:
        owner = tables.owners.c
        assert set((await say(select(owner.process))).scalars()) == {os.getpid()}
        await say(update(tables.owners).values(process_started=owner.process_started - 60))
        assert _ids(await stores[1].recover()) == ["resp_1"]


async def test_the_heartbeat_renews_the_lease_and_comes_back(
    url: str, monkeypatch: pytest.MonkeyPatch, response: Make
) -> None:
    monkeypatch.setattr(owners, "BEAT_SECONDS", 0.01)
    store = await Store.open(url)
    async with _changing(url) as say:

        async def lease() -> float | None:
            found: float | None = (await say(select(tables.owners.c.alive_until))).scalar()
            return found

        first = await lease()
        assert first is not None

        async def renewed() -> bool:
            return (await lease() or 0.0) > first

        await _until(renewed)
        await say(delete(tables.owners))  # as if this server had been stopped for long
        await _until(renewed)
    await store.close()
