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
from typing import Any

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
        """End it now; what there is of it is kept."""
        self.task.cancel()

    def fail(self, reason: str) -> None:
        """End it now, as failed with this sentence."""
        self._stopped = reason
        self.task.cancel()

    async def _run(self) -> None:
        try:
            final = await self._answer()
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
        finally:
            await self._loop.stop()
        await self._end(final)

    async def _answer(self) -> JsonObject:
        """Everything up to the last event; the response as it ends."""
        self._publish([self._sequence.lifecycle("response.created", dict(self._body))])
        if self.is_background:
            self._publish([self._sequence.lifecycle("response.queued", dict(self._body))])
            self._body = self._body | {"status": "in_progress"}
            await self._service.store.update(self.id, status="in_progress", body=self._body)
        self._publish([self._sequence.lifecycle("response.in_progress", dict(self._body))])
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
        try:
            self._publish(self._writer.end())
            final["output"] = self._writer.output
            last = self._sequence.lifecycle(TERMINAL[final["status"]], final)
            if self._store:
                await self._save_end(final, last)
            self._final = final
            self._service.metrics.responses.labels(final["status"]).inc()
            self.log.append(last)
        except RequestError as error:  # the store
            self._final = self._failed(error)
            self.log.append({**last, "type": "response.failed", "response": self._final})
        finally:
            self.log.close()

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
