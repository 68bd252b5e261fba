"""Everyone who watches a response sees all of its events, in order."""

from __future__ import annotations

import asyncio

import pytest

from ossia.server.responses.live import Event, EventLog

pytestmark = pytest.mark.anyio

PATIENCE = 60  # seconds


def event(number: int) -> Event:
    return {"type": "response.output_text.delta", "sequence_number": number}


async def seen(log: EventLog, after: int = -1) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [event["sequence_number"] async for some in log.follow(after) for event in some]


async def test_watchers_of_any_pace_see_all_events() -> None:
    log = EventLog()
    watching = [asyncio.create_task(seen(log)) for _ in range(3)]
    for number in range(20):
        log.append(event(number))
        for _ in range(number % 3):
            await asyncio.sleep(0)  # they see some one by one, and some together
        if number == 10:
            watching.append(asyncio.create_task(seen(log)))
    log.close()
    watching.append(asyncio.create_task(seen(log)))
    assert await asyncio.gather(*watching) == [list(range(20))] * 5


@pytest.mark.parametrize(("after", "first"), [(-1, 0), (0, 1), (3, 4), (4, 5), (9, 5)])
async def test_a_watcher_may_come_back_after_an_event(after: int, first: int) -> None:
    log = EventLog()
    watching = asyncio.create_task(seen(log, after))
    for number in range(5):
        log.append(event(number))
        await asyncio.sleep(0)
    log.close()
    assert await watching == await seen(log, after) == list(range(first, 5))
