"""The durable store of responses and conversations, shared by any number of servers.

It knows nothing of HTTP or of models. Each method is one transaction, durable when it returns, and
goes on to its end when its caller is cancelled. Any method can raise `StoreUnavailable`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy import update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.store import conversations, responses, tables
from ossia.store.database import Database
from ossia.store.expiry import Expiry
from ossia.store.opening import open_database
from ossia.store.owners import Owner
from ossia.store.records import (
    UNFINISHED,
    ConversationItem,
    StoredConversation,
    StoredResponse,
)

MAX_AGE = 30 * 86400.0  # seconds


class Store:
    """For one event loop. What is past its age since its last use counts as missing."""

    def __init__(self, database: Database, owner: Owner, expiry: Expiry) -> None:
        """Use `open`."""
        self._database = database
        self._owner = owner
        self._expiry = expiry

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        max_age: float | None = MAX_AGE,
        clock: Callable[[], float] = time.time,
    ) -> Store:
        """Open it, and create what is missing: the file, its folder, the tables.

        Args:
            url: `sqlite:///FILE`, `sqlite://` for one in memory, or `postgresql://...`.
            max_age: seconds that something is kept after its last use; None for ever.
            clock: seconds since 1970.

        Raises:
            StartupError: one sentence that names the database and says what to change.
        """
        database = await open_database(url)
        owner = Owner(database, clock)
        try:
            await owner.start()
        except BaseException:
            await database.close()
            raise
        return cls(database, owner, Expiry(max_age, clock))

    async def close(self) -> None:
        """Wait for what is being written. What is unfinished is then there for others to end."""
        await self._owner.stop()
        await self._database.close()

    # Responses

    async def begin(self, response: StoredResponse) -> None:
        """Store a new response that is queued or in progress; this process answers for it."""
        await self._database.write(
            lambda c: responses.begin(c, response, self._owner.id, self._expiry)
        )

    async def update(self, id: str, *, status: str, body: dict[str, Any]) -> None:
        """Change a response that is not finished; one that is, or is deleted, stays as it is."""
        await self._database.write(lambda c: responses.update_unfinished(c, id, status, body))

    async def finish(self, response: StoredResponse) -> bool:
        """Store the end of a response that was begun, and append it to its conversation.

        The conversation gets the input items and then `body["output"]`, all with ids; those that
        it has already it keeps as they are. Without the conversation only the response is stored.

        Returns:
            False, and nothing is stored, if the response has ended before (it was cancelled
            through another server, or another server took this one for dead) or is deleted.
        """

        async def finish(connection: AsyncConnection) -> bool:
            if not await responses.finish(connection, response, self._expiry):
                return False
            if response.conversation_id is not None:
                items = [*response.input_items, *response.body.get("output", ())]
                await conversations.add_of_response(
                    connection, response.conversation_id, response.id, items, self._expiry
                )
            return True

        return await self._database.write(finish)

    async def get(self, id: str) -> StoredResponse | None:
        return await self._database.read(lambda c: responses.get(c, id, self._expiry))

    async def delete(self, id: str) -> bool:
        """Delete a response and its events; False if there is none. Conversations keep items."""
        return await self._database.write(lambda c: responses.remove(c, id, self._expiry))

    async def chain(self, id: str) -> list[StoredResponse]:
        """The response and all before it, oldest first. It counts as a use of each.

        Raises:
            MissingResponse: names the link that is deleted or expired.
        """
        found, due = await self._database.read(lambda c: responses.chain(c, id, self._expiry))
        await self._renew(due)
        return found

    async def transcripts(self, response_ids: Sequence[str]) -> dict[str, StoredResponse]:
        """Those of the responses that are there, by id. It counts as a use of each."""
        found, due = await self._database.read(
            lambda c: responses.by_ids(c, response_ids, self._expiry)
        )
        await self._renew(due)
        return found

    async def find_items(self, item_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Output items of finished responses, by their ids; those that are not stored are left out.

        Ids of output items are unique: the server makes them.
        """
        return await self._database.read(lambda c: responses.find_items(c, item_ids, self._expiry))

    async def append_events(self, id: str, events: Sequence[tuple[int, bytes]]) -> bool:
        """Add (sequence number, event) pairs; a number that is there keeps its first event.

        Nothing is added to a response that is deleted.

        Returns:
            Whether the response is there and has not ended.
        """
        new = self._database.insert_new(tables.events)

        async def append(connection: AsyncConnection) -> bool:
            await responses.append_events(connection, new, id, events)
            return await responses.is_unfinished(connection, id)

        try:
            return await self._database.write(append)
        except IntegrityError:
            return False  # nothing refers to the events but their response, which is not there

    async def events(self, id: str, after: int = -1) -> list[tuple[int, bytes]]:
        """The (sequence number, event) pairs with larger numbers than `after`, in order."""
        return await self._database.read(lambda c: responses.events_after(c, id, after))

    # Conversations

    async def create_conversation(
        self, conversation: StoredConversation, items: Sequence[dict[str, Any]] = ()
    ) -> None:
        """
        Raises:
            DuplicateItem: two of the items have one id.
        """
        await self._database.write(
            lambda c: conversations.create(c, conversation, items, self._expiry)
        )

    async def conversation(self, id: str) -> StoredConversation | None:
        return await self._database.read(lambda c: conversations.get(c, id, self._expiry))

    async def update_conversation(
        self, id: str, metadata: dict[str, Any]
    ) -> StoredConversation | None:
        """Replace its metadata; None if there is no such conversation."""
        return await self._database.write(
            lambda c: conversations.set_metadata(c, id, metadata, self._expiry)
        )

    async def delete_conversation(self, id: str) -> bool:
        """Delete it and its items, but no responses; False if there is none."""
        return await self._database.write(lambda c: conversations.remove(c, id, self._expiry))

    async def add_items(self, id: str, items: Sequence[dict[str, Any]]) -> None:
        """Append all of the items or none, each with an "id".

        Raises:
            MissingConversation: it is deleted or expired.
            DuplicateItem: an id is in the conversation already, or twice among `items`.
        """
        await self._database.write(lambda c: conversations.add(c, id, items, self._expiry))

    async def items(
        self, id: str, *, after: str | None = None, limit: int, ascending: bool
    ) -> list[ConversationItem]:
        """A page of items, from behind the item `after` on in the order asked for.

        Raises:
            MissingItem: the conversation has no item `after`.
        """
        return await self._database.read(
            lambda c: conversations.items(
                c, id, self._expiry, after=after, limit=limit, ascending=ascending
            )
        )

    async def all_items(self, id: str) -> list[ConversationItem]:
        """All items in order. It counts as a use of the conversation."""
        found, due = await self._database.read(
            lambda c: conversations.all_items(c, id, self._expiry)
        )
        if due:
            await self._database.write(lambda c: self._expiry.renew(c, tables.conversations, [id]))
        return found

    async def item(self, id: str, item_id: str) -> dict[str, Any] | None:
        return await self._database.read(lambda c: conversations.item(c, id, item_id, self._expiry))

    async def delete_item(self, id: str, item_id: str) -> bool:
        return await self._database.write(
            lambda c: conversations.remove_item(c, id, item_id, self._expiry)
        )

    # Life

    async def recover(self) -> list[StoredResponse]:
        """Take over the unfinished responses of servers that are dead, each exactly once.

        The caller is to `finish` them. If it dies before, they are found again.
        """
        table = tables.responses

        async def recover(connection: AsyncConnection) -> list[StoredResponse]:
            ownerless = await self._owner.forget_the_dead(connection)
            taken = await connection.execute(
                update(table)
                .where(table.c.status.in_(UNFINISHED), ownerless)
                .values(owner=self._owner.id)
                .returning(table)
            )
            found = [responses.stored_response(row) for row in taken]
            return sorted(found, key=lambda response: (response.created_at, response.id))

        return await self._database.write(recover, alone=True)

    async def expire(self) -> int:
        """Delete what is past its age; how many responses and conversations that were."""
        expired = 0
        for table in (tables.responses, tables.conversations):
            batch = partial(self._expiry.delete_batch, table=table)
            while some := await self._database.write(batch):
                expired += some
        return expired

    async def _renew(self, due: list[str]) -> None:
        if due:
            await self._database.write(lambda c: responses.renew(c, due, self._expiry))
