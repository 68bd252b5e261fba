"""How long things are kept, counted from their last use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Table, delete, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.store import tables
from ossia.store.records import UNFINISHED

_SLACK = 0.01  # of the age: uses that follow each other so closely are not written each
_MAX_SLACK = 3600.0  # seconds
_BATCH = 200  # rows deleted in one transaction, so that others need not wait long


@dataclass(frozen=True, slots=True)
class Expiry:
    """The rule. `expires_at` of a row is null if it is kept for ever."""

    max_age: float | None  # seconds since the last use; None: for ever
    clock: Callable[[], float]  # seconds since 1970

    def next(self) -> float | None:
        """`expires_at` of what is used now."""
        return None if self.max_age is None else self.clock() + self.max_age

    def kept(self, table: Table) -> ColumnElement[bool]:
        """Whether a row of responses or conversations is still there for users."""
        kept = or_(table.c.expires_at.is_(None), table.c.expires_at > self.clock())
        if table is tables.responses:
            return or_(kept, table.c.status.in_(UNFINISHED))
        return kept

    def due(self, expires_at: float | None) -> bool:
        """Whether the use of a row has to be written."""
        if self.max_age is None or expires_at is None:
            return (self.max_age is None) != (expires_at is None)
        return expires_at < self.clock() + self.max_age - min(self.max_age * _SLACK, _MAX_SLACK)

    async def renew(self, connection: AsyncConnection, table: Table, ids: Sequence[str]) -> None:
        """Note that these rows are used now; few enough of them for one statement."""
        # What others have locked at this moment they renew or delete, and waiting for one row
        # while holding another could go on for ever.
        free = select(table.c.id).where(table.c.id.in_(ids)).with_for_update(skip_locked=True)
        await connection.execute(
            update(table).where(table.c.id.in_(free)).values(expires_at=self.next())
        )

    async def delete_batch(self, connection: AsyncConnection, table: Table) -> int:
        """Delete some rows that are past their age, with all that belongs to them; how many."""
        old = (
            select(table.c.id)
            .where(~self.kept(table))
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        return (await connection.execute(delete(table).where(table.c.id.in_(old)))).rowcount
