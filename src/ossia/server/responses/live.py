"""Responses that run: their events so far, for everyone who watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ossia.server.responses.run import ResponseRun

Event = dict[str, Any]


class EventLog:
    """Events of one response in order. Any number of readers, each at its own pace."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._is_closed = False
        self._changed = asyncio.Event()

    def __len__(self) -> int:
        """How many events there have been; the next one has this number."""
        return len(self._events)

    def append(self, event: Event) -> None:
        """The next event."""
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """There will be no more."""
        self._is_closed = True
        self._wake()

    async def follow(self, after: int = -1) -> AsyncGenerator[list[Event], None]:
        """Events with a sequence number above `after`, as many at once as there are."""
        position = after + 1  # events are numbered from 0
        while True:
            if position < len(self._events):
                ready = self._events[position:]
                position += len(ready)
                yield ready
            elif self._is_closed:
                return
            else:
                await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class LiveResponses:
    """The responses that run in this process, by id."""

    def __init__(self) -> None:
        self._runs: dict[str, ResponseRun] = {}

    def add(self, run: ResponseRun) -> None:
        """It runs now, and is forgotten when it has ended."""
        self._runs[run.id] = run
        run.task.add_done_callback(lambda _: self._runs.pop(run.id, None))

    def get(self, response_id: str) -> ResponseRun | None:
        """The run of this response, unless it has ended."""
        return self._runs.get(response_id)

    async def ended(self) -> None:
        """Wait until none runs any more."""
        while self._runs:
            await asyncio.wait([run.task for run in self._runs.values()])

    async def close(self) -> None:
        """Cancel all, and wait until each has been stored."""
        runs = list(self._runs.values())
        for run in runs:
            run.fail("The server was stopped while this response ran; please send it again.")
        await asyncio.gather(*(run.task for run in runs), return_exceptions=True)
