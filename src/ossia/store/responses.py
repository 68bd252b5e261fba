"""Responses and their events: what is said to the database, in the transaction of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Insert, Row, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.store.errors import MissingResponse
from ossia.store.expiry import Expiry
from ossia.store.records import UNFINISHED, StoredResponse
from ossia.store.tables import events, in_parts, outputs
from ossia.store.tables import responses as table

_LARGEST_NUMBER = 2**63 - 1  # that a column holds


async def begin(
    connection: AsyncConnection, response: StoredResponse, owner: str, expiry: Expiry
) -> None:
    await connection.execute(
        insert(table).values(
            id=response.id,
            background=response.background,
            previous_response_id=response.previous_response_id,
            conversation_id=response.conversation_id,
            owner=owner,
            **_content(response, expiry),
        )
    )


async def update_unfinished(
    connection: AsyncConnection, response_id: str, status: str, body: dict[str, Any]
) -> None:
    await connection.execute(
        update(table)
        .where(table.c.id == response_id, table.c.status.in_(UNFINISHED))
        .values(status=status, body=body)
    )


async def finish(connection: AsyncConnection, response: StoredResponse, expiry: Expiry) -> bool:
    """False if it has ended before, or is deleted: the first end counts."""
    ended = await connection.execute(
        update(table)
        .where(table.c.id == response.id, table.c.status.in_(UNFINISHED))
        .values(owner=None, **_content(response, expiry))
    )
    if ended.rowcount == 0:
        return False
    ids = dict.fromkeys(item["id"] for item in _output(response))
    if ids:
        rows = [{"item_id": item_id, "response_id": response.id} for item_id in ids]
        await connection.execute(insert(outputs), rows)
    return True


async def find_items(
    connection: AsyncConnection, item_ids: Sequence[str], expiry: Expiry
) -> dict[str, dict[str, Any]]:
    """Output items that are still there, by id."""
    found: dict[str, dict[str, Any]] = {}
    for some in in_parts(list(dict.fromkeys(item_ids))):
        of_items = select(outputs.c.response_id).where(outputs.c.item_id.in_(some))
        wanted = select(table).where(table.c.id.in_(of_items), expiry.kept(table))
        for row in await connection.execute(wanted):
            found |= {item["id"]: item for item in _output(stored_response(row))}
    return {item_id: found[item_id] for item_id in item_ids if item_id in found}


async def is_unfinished(connection: AsyncConnection, response_id: str) -> bool:
    wanted = select(table.c.id).where(table.c.id == response_id, table.c.status.in_(UNFINISHED))
    return (await connection.execute(wanted)).one_or_none() is not None


async def get(
    connection: AsyncConnection, response_id: str, expiry: Expiry
) -> StoredResponse | None:
    wanted = select(table).where(table.c.id == response_id, expiry.kept(table))
    row = (await connection.execute(wanted)).one_or_none()
    return None if row is None else stored_response(row)


async def remove(connection: AsyncConnection, response_id: str, expiry: Expiry) -> bool:
    gone = delete(table).where(table.c.id == response_id, expiry.kept(table))
    return (await connection.execute(gone)).rowcount > 0


async def chain(
    connection: AsyncConnection, response_id: str, expiry: Expiry
) -> tuple[list[StoredResponse], list[str]]:
    """The chain, oldest first, and the ids in it whose use has to be noted.

    Raises:
        MissingResponse: a link is deleted or expired.
    """
    columns = (table.c.id, table.c.previous_response_id)
    links = select(*columns).where(table.c.id == response_id).cte("links", recursive=True)
    # Not `union_all`, so that a chain that were a ring would end.
    links = links.union(select(*columns).join(links, table.c.id == links.c.previous_response_id))
    kept = select(table).join(links, table.c.id == links.c.id).where(expiry.kept(table))
    rows = {row.id: row for row in await connection.execute(kept)}
    found: list[StoredResponse] = []
    due: list[str] = []
    link: str | None = response_id
    while link is not None:
        row = rows.pop(link, None)
        if row is None:
            raise MissingResponse(link)
        found.append(stored_response(row))
        due += [row.id] if expiry.due(row.expires_at) else []
        link = row.previous_response_id
    return found[::-1], due


async def by_ids(
    connection: AsyncConnection, response_ids: Sequence[str], expiry: Expiry
) -> tuple[dict[str, StoredResponse], list[str]]:
    """Those that are there, and the ids whose use has to be noted."""
    found: dict[str, StoredResponse] = {}
    due: list[str] = []
    for some in in_parts(list(dict.fromkeys(response_ids))):
        wanted = select(table).where(table.c.id.in_(some), expiry.kept(table))
        for row in await connection.execute(wanted):
            found[row.id] = stored_response(row)
            due += [row.id] if expiry.due(row.expires_at) else []
    return found, due


async def renew(connection: AsyncConnection, response_ids: list[str], expiry: Expiry) -> None:
    for some in in_parts(response_ids):
        await expiry.renew(connection, table, some)


async def append_events(
    connection: AsyncConnection,
    insert_new: Insert,
    response_id: str,
    numbered: Sequence[tuple[int, bytes]],
) -> None:
    rows = [
        {"response_id": response_id, "sequence_number": number, "event": event}
        for number, event in numbered
    ]
    if rows:
        await connection.execute(insert_new, rows)


async def events_after(
    connection: AsyncConnection, response_id: str, after: int
) -> list[tuple[int, bytes]]:
    wanted = (
        select(events.c.sequence_number, events.c.event)
        .where(
            events.c.response_id == response_id,
            events.c.sequence_number > max(-1, min(after, _LARGEST_NUMBER)),
        )
        .order_by(events.c.sequence_number)
    )
    return [(row.sequence_number, row.event) for row in await connection.execute(wanted)]


def stored_response(row: Row[Any]) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        created_at=row.created_at,
        status=row.status,
        background=row.background,
        previous_response_id=row.previous_response_id,
        conversation_id=row.conversation_id,
        body=row.body,
        input_items=row.input_items,
        transcript=row.transcript,
        settings=row.settings,
    )


def _output(response: StoredResponse) -> list[dict[str, Any]]:
    output: list[dict[str, Any]] = response.body.get("output", [])
    return output


def _content(response: StoredResponse, expiry: Expiry) -> dict[str, Any]:
    """The columns that the end of a response sets anew."""
    return {
        "created_at": response.created_at,
        "status": response.status,
        "body": response.body,
        "input_items": response.input_items,
        "transcript": response.transcript,
        "settings": response.settings,
        "expires_at": expiry.next(),
    }
