"""The sessions of all conversations: few at once, and none that nobody uses."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from ossia.tools.python.sandbox.settings import Settings
from ossia.tools.python.session import Outcome, Session
from ossia.tools.tool import ToolError

MOST = 16
IDLE_SECONDS = 600.0
_REMEMBERED = 1000  # conversations whose session was ended between two calls


@dataclass(slots=True)
class _Place:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # while a session is started
    session: Session | None = None
    calls: int = 0  # that run or wait
    expiry: asyncio.TimerHandle | None = None


class Pool:
    """For one event loop."""

    def __init__(
        self, settings: Settings, *, most: int = MOST, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """At most `most` sessions, each ended after `idle_seconds` without a call."""
        self._settings = settings
        self._most = most
        self._idle_seconds = idle_seconds
        self._places: OrderedDict[str, _Place] = OrderedDict()  # used last at the end
        self._lost: OrderedDict[str, None] = OrderedDict()
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._places)

    async def run(
        self, conversation: str, code: str, seconds: float, progress: Callable[[str], None]
    ) -> tuple[Outcome, bool]:
        """Execute code in the conversation's session.

        Returns:
            What became of it, and whether variables of earlier calls were lost before it.

        Raises:
            ToolError: as many others run code as may.
            StartFailed: this machine refuses a sandbox now.
        """
        place = self._enter(conversation)
        try:
            async with place.lock:
                if place.session is not None and not place.session.alive:
                    self._retire(conversation, place)
                if place.session is None:
                    place.session = await Session.start(self._settings)
                session = place.session
            lost = conversation in self._lost
            self._lost.pop(conversation, None)
            outcome = await session.run(code, seconds, progress)
            if outcome.ended and place.session is session:
                self._retire(conversation, place, told=True)
            return outcome, lost
        finally:
            self._leave(conversation, place)

    async def close(self) -> None:
        """End all sessions."""
        for conversation in list(self._places):
            self._end(conversation)
        while self._closing:
            await asyncio.wait(self._closing)

    def _enter(self, conversation: str) -> _Place:
        place = self._places.get(conversation)
        if place is None:
            self._make_room()
            place = self._places[conversation] = _Place()
        self._places.move_to_end(conversation)
        place.calls += 1
        if place.expiry is not None:
            place.expiry.cancel()
        return place

    def _leave(self, conversation: str, place: _Place) -> None:
        place.calls -= 1
        if place.calls or self._places.get(conversation) is not place:
            return
        if place.session is None:
            del self._places[conversation]
            return
        loop = asyncio.get_running_loop()
        place.expiry = loop.call_later(self._idle_seconds, self._end, conversation)

    def _make_room(self) -> None:
        if len(self._places) < self._most:
            return
        idle = next((name for name, place in self._places.items() if not place.calls), None)
        if idle is None:
            raise ToolError(
                f"{self._most} conversations run code at this moment, which is all that the "
                "server allows; try again a little later."
            )
        self._end(idle)

    def _end(self, conversation: str) -> None:
        place = self._places.pop(conversation)
        if place.expiry is not None:
            place.expiry.cancel()
        self._retire(conversation, place)

    def _retire(self, conversation: str, place: _Place, *, told: bool = False) -> None:
        """End the session; the model hears of it with the next call unless it was told."""
        session, place.session = place.session, None
        if session is None:
            return
        task = asyncio.get_running_loop().create_task(session.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        if not told:
            self._lost[conversation] = None
            while len(self._lost) > _REMEMBERED:
                self._lost.popitem(last=False)
