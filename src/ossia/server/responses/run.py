"""One response from its first event to its last, and into the store.

It runs in a task of its own, so that a response in the background does not need its client. What
was acknowledged is in the store before it is said: the response before its first event, its end
before the last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from ossia.errors import RequestError
from ossia.server.errors import internal_error
from ossia.server.responses.body import cancelled, ended, failed
from ossia.server.responses.events import TERMINAL, EventSequence
from ossia.server.responses.live import Event, EventLog
from ossia.server.responses.output import OutputWriter, Shown
from ossia.server.responses.prepare import PreparedTurn
from ossia.server.responses.transcript import encode_items
from ossia.server.service import Service
from ossia.server.tool_loop import ToolLoop
from ossia.server.usage import Usage
from ossia.store.records import StoredResponse

logger = logging.getLogger(__name__)

JsonObject = dict[str, Any]

FLUSH_SECONDS = 0.25  # events of a background response that a crash may lose
_encode = msgspec.json.Encoder().encode


class ResponseRun:
    """A response that runs. Attributes: id; task; log: its events; error: why it failed."""

    task: asyncio.Task[None]

    def __init__(
        self,
        service: Service,
        prepared: PreparedTurn,
        loop: ToolLoop,
        body: JsonObject,
        *,
        shown: Shown,
        store: bool,
    ) -> None:
        """`body` is the response as it begins; `loop` has been started."""
        self.id: str = body["id"]
        self.log = EventLog()
        self.error: RequestError | None = None
        self._service = service
        self._prepared = prepared
        self._loop = loop
        self._body = body
        self._store = store
        self._sequence = EventSequence()
        self._session = session_of(prepared, self.id)
        self._writer = OutputWriter(
            self._sequence,
            prepared.tools.toolset,
            service.tokenizer,
            service.seal,
            shown,
            self._session,
        )
        self._final: JsonObject | None = None
        self._phase: Literal["new", "called off", "running", "ending"] = "new"
        self._stopped: str | None = None  # why the server itself ends it
        self._unsaved: list[tuple[int, bytes]] = []
        self._saved_at = time.monotonic()

    @property
    def body(self) -> JsonObject:
        """The Response object as it is now."""
        if self._final is not None:
            return self._final
        return self._body | {"output": list(self._writer.output)}

    @property
    def record(self) -> StoredResponse:
        """What is stored of it, or would be."""
        return self._record(self.body)

    @property
    def chain(self) -> Sequence[StoredResponse]:
        """The responses that it goes on from."""
        return self._prepared.history.chain

    @property
    def is_background(self) -> bool:
        """Whether it goes on without its client."""
        return bool(self._body["background"])

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        return self._loop.usage

    async def start(self) -> None:
        """Put it into the store, if it is to be kept, and let it run.

        Raises:
            RequestError: the store does not answer.
        """
        if self._store:
            await self._service.store.begin(self._record(self._body))
        self.task = asyncio.create_task(self._run(), name=self.id)
        self._service.live.add(self)

    def cancel(self) -> None:
        """End it now, unless it is ending; what there is of it is kept."""
        if self._phase == "running":
            self.task.cancel()
        elif self._phase == "new":  # a task that has not begun would never come to its end
            self._phase = "called off"

    def fail(self, reason: str) -> None:
        """End it now, unless it is ending, as failed with this sentence."""
        if self._phase != "ending":
            self._stopped = reason
        self.cancel()

    async def _run(self) -> None:
        try:
            called_off, self._phase = self._phase == "called off", "running"
            final = await self._answer(called_off=called_off)
        except asyncio.CancelledError:
            if self._stopped is None:
                final = cancelled(self._body, self._writer.output, self.usage)
            else:
                final = self._failed(RequestError(self._stopped, code="server_error"))
        except RequestError as error:
            final = self._failed(error)
        except Exception:
            logger.exception("Response %s failed.", self.id)
            final = self._failed(internal_error(self.id))
        self._phase = "ending"
        current = asyncio.current_task()
        assert current is not None
        while current.cancelling():
            current.uncancel()  # what follows is not to be cancelled
        await self._loop.stop()
        await self._end(final)

    async def _answer(self, *, called_off: bool) -> JsonObject:
        """Everything up to the last event; the response as it ends."""
        self._publish([self._sequence.lifecycle("response.created", dict(self._body))])
        if self.is_background:
            self._publish([self._sequence.lifecycle("response.queued", dict(self._body))])
            self._body = self._body | {"status": "in_progress"}
            await self._service.store.update(self.id, status="in_progress", body=self._body)
        self._publish([self._sequence.lifecycle("response.in_progress", dict(self._body))])
        if called_off:
            raise asyncio.CancelledError
        writer = self._writer
        for listing in self._prepared.tools.listings:
            if listing.label not in self._prepared.history.listed:
                self._publish(writer.listing(listing))
        for call in self._prepared.approved:
            self._publish(writer.approved(call.call_id, call.name, call.arguments))
        running = self._loop.run()
        try:
            async for event in running:
                self._publish(writer.write(event))
                due = time.monotonic() - self._saved_at > FLUSH_SECONDS
                if self._unsaved and due and not await self._save_events():
                    raise asyncio.CancelledError  # through another server, or it was deleted
        finally:
            await running.aclose()
        self._publish(writer.end())
        loop = self._loop
        return ended(self._body, writer.output, loop.usage, loop.finish_reason, loop.finish_details)

    def _failed(self, error: RequestError) -> JsonObject:
        self.error = error
        return failed(self._body, self._writer.output, self.usage, error)

    async def _end(self, final: JsonObject) -> None:
        last = self._last_event(final)
        try:
            if self._store:
                await self._save_end(last["response"], last)
        except RequestError as error:  # the store
            last = self._failed_event(error)
        self._final = last["response"]
        self._service.metrics.responses.labels(self._final["status"]).inc()
        self.log.append(last)
        self.log.close()

    def _last_event(self, final: JsonObject) -> Event:
        try:
            self._publish(self._writer.end())
            final["output"] = self._writer.output
            return self._sequence.lifecycle(TERMINAL[final["status"]], final)
        except Exception:  # whatever is wrong with the order of events, they have an end
            logger.exception("Response %s could not be ended.", self.id)
            return self._failed_event(internal_error(self.id))

    def _failed_event(self, error: RequestError) -> Event:
        response = self._failed(error)
        number = len(self.log)
        return {"type": TERMINAL["failed"], "response": response, "sequence_number": number}

    async def _save_end(self, final: JsonObject, last: Event) -> None:
        if not await self._service.store.finish(self._record(final)):
            # Another server ended it, for its client, or because it took us for dead.
            stored = await self._service.store.get(self.id)
            if stored is not None:
                last["response"].update(stored.body)
                last["type"] = TERMINAL[stored.status]
            return
        if self.is_background:
            self._unsaved.append((last["sequence_number"], _encode(last)))
            await self._save_events()

    def _publish(self, events: Iterable[Event] | Iterator[Event]) -> None:
        for event in events:
            self.log.append(event)
            if self._store and self.is_background:
                self._unsaved.append((event["sequence_number"], _encode(event)))

    async def _save_events(self) -> bool:
        """Whether it is still to go on."""
        unsaved, self._unsaved = self._unsaved, []
        self._saved_at = time.monotonic()
        return await self._service.store.append_events(self.id, unsaved)

    def _record(self, body: JsonObject) -> StoredResponse:
        prepared = self._prepared
        return StoredResponse(
            id=self.id,
            created_at=body["created_at"],
            status=body["status"],
            background=self.is_background,
            previous_response_id=body.get("previous_response_id"),
            conversation_id=prepared.conversation_id,
            body=body,
            input_items=prepared.input_items,
            transcript=encode_items([*prepared.new_items, *self._loop.added]),
            settings={**prepared.settings, "session": self._session},
        )


def session_of(prepared: PreparedTurn, response_id: str) -> str:
    """Under which the tools keep what they remember of the conversation."""
    return str(
        prepared.history.session
        or prepared.settings.get("session")
        or prepared.conversation_id
        or response_id
    )
