"""Conversations and their items: what is said to the database, in the transaction of the caller.

Items are numbered by their conversation's row. Whoever adds some first moves its counter on and
so holds the row, in both databases, until the items are there: two requests that add at once get
different positions, and each sees the ids that the other added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row, Select, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.store.errors import DuplicateItem, MissingConversation, MissingItem
from ossia.store.expiry import Expiry
from ossia.store.records import ConversationItem, StoredConversation
from ossia.store.tables import conversations as table
from ossia.store.tables import in_parts, stored_id
from ossia.store.tables import items as item_table

Item = dict[str, Any]
_LARGEST_LIMIT = 2**31 - 1


async def create(
    connection: AsyncConnection,
    conversation: StoredConversation,
    items: Sequence[Item],
    expiry: Expiry,
) -> None:
    """
    Raises:
        DuplicateItem: two of the items have one id.
    """
    await connection.execute(
        insert(table).values(
            id=conversation.id,
            created_at=conversation.created_at,
            metadata=conversation.metadata,
            settings=conversation.settings,
            next_position=0,
            expires_at=expiry.next(),
        )
    )
    await add(connection, conversation.id, items, expiry)


async def get(
    connection: AsyncConnection, conversation_id: str, expiry: Expiry
) -> StoredConversation | None:
    wanted = select(table).where(table.c.id == conversation_id, expiry.kept(table))
    row = (await connection.execute(wanted)).one_or_none()
    return None if row is None else _conversation(row)


async def set_metadata(
    connection: AsyncConnection, conversation_id: str, metadata: dict[str, Any], expiry: Expiry
) -> StoredConversation | None:
    changed = await connection.execute(
        update(table)
        .where(table.c.id == conversation_id, expiry.kept(table))
        .values(metadata=metadata, expires_at=expiry.next())
        .returning(table)
    )
    row = changed.one_or_none()
    return None if row is None else _conversation(row)


async def remove(connection: AsyncConnection, conversation_id: str, expiry: Expiry) -> bool:
    gone = delete(table).where(table.c.id == conversation_id, expiry.kept(table))
    return (await connection.execute(gone)).rowcount > 0


async def add(
    connection: AsyncConnection, conversation_id: str, items: Sequence[Item], expiry: Expiry
) -> None:
    """
    Raises:
        MissingConversation: it is deleted or expired.
        DuplicateItem: an id is in the conversation already, or twice among `items`.
    """
    position = await _reserve(connection, conversation_id, len(items), expiry)
    if position is None:
        raise MissingConversation(conversation_id)
    known = await _known_ids(connection, conversation_id, items)
    for item in items:
        if stored_id(item["id"]) in known:
            raise DuplicateItem(item["id"])
        known.add(stored_id(item["id"]))
    await _insert(connection, conversation_id, position, items, None)


async def add_of_response(
    connection: AsyncConnection,
    conversation_id: str,
    response_id: str,
    items: Sequence[Item],
    expiry: Expiry,
) -> None:
    """Items that the conversation has already are left as they are: the response is at its end.

    Nothing is done if the conversation is deleted or expired.
    """
    position = await _reserve(connection, conversation_id, len(items), expiry)
    if position is None:
        return
    known = await _known_ids(connection, conversation_id, items)
    new: list[Item] = []
    for item in items:
        if stored_id(item["id"]) not in known:
            known.add(stored_id(item["id"]))
            new.append(item)
    await _insert(connection, conversation_id, position, new, response_id)


async def items(
    connection: AsyncConnection,
    conversation_id: str,
    expiry: Expiry,
    *,
    after: str | None,
    limit: int,
    ascending: bool,
) -> list[ConversationItem]:
    """
    Raises:
        MissingItem: the conversation has no item `after`.
    """
    position = item_table.c.position
    wanted = _items_of(conversation_id, expiry)
    wanted = wanted.order_by(position.asc() if ascending else position.desc())
    if after is not None:
        row = await _row(connection, conversation_id, after, expiry)
        if row is None:
            raise MissingItem(after)
        wanted = wanted.where(position > row.position if ascending else position < row.position)
    rows = await connection.execute(wanted.limit(min(limit, _LARGEST_LIMIT)))
    return [ConversationItem(row.item, row.response_id) for row in rows]


async def all_items(
    connection: AsyncConnection, conversation_id: str, expiry: Expiry
) -> tuple[list[ConversationItem], bool]:
    """The items in order, and whether the conversation's use has to be noted."""
    wanted = _items_of(conversation_id, expiry).add_columns(table.c.expires_at)
    rows = (await connection.execute(wanted.order_by(item_table.c.position))).all()
    found = [ConversationItem(row.item, row.response_id) for row in rows]
    return found, any(expiry.due(row.expires_at) for row in rows[:1])


async def item(
    connection: AsyncConnection, conversation_id: str, item_id: str, expiry: Expiry
) -> Item | None:
    row = await _row(connection, conversation_id, item_id, expiry)
    return None if row is None else row.item


async def remove_item(
    connection: AsyncConnection, conversation_id: str, item_id: str, expiry: Expiry
) -> bool:
    row = await _row(connection, conversation_id, item_id, expiry)
    if row is None:
        return False
    gone = delete(item_table).where(
        item_table.c.conversation_id == conversation_id, item_table.c.position == row.position
    )
    return (await connection.execute(gone)).rowcount > 0


async def _reserve(
    connection: AsyncConnection, conversation_id: str, count: int, expiry: Expiry
) -> int | None:
    """The position of the first of `count` items; None if there is no such conversation."""
    reserved = await connection.execute(
        update(table)
        .where(table.c.id == conversation_id, expiry.kept(table))
        .values(next_position=table.c.next_position + count, expires_at=expiry.next())
        .returning(table.c.next_position)
    )
    end = reserved.scalar_one_or_none()
    return None if end is None else int(end) - count


async def _known_ids(
    connection: AsyncConnection, conversation_id: str, items: Sequence[Item]
) -> set[str]:
    """Which of their ids the conversation has."""
    ids = [item["id"] for item in items]
    known: set[str] = set()
    for some in in_parts(ids):
        wanted = select(item_table.c.item_id).where(
            item_table.c.conversation_id == conversation_id, item_table.c.item_id.in_(some)
        )
        known.update((await connection.execute(wanted)).scalars())
    return known


async def _insert(
    connection: AsyncConnection,
    conversation_id: str,
    position: int,
    items: Sequence[Item],
    response_id: str | None,
) -> None:
    rows = [
        {
            "conversation_id": conversation_id,
            "position": position + offset,
            "item_id": item["id"],
            "response_id": response_id,
            "item": item,
        }
        for offset, item in enumerate(items)
    ]
    if rows:
        await connection.execute(insert(item_table), rows)


async def _row(
    connection: AsyncConnection, conversation_id: str, item_id: str, expiry: Expiry
) -> Row[Any] | None:
    wanted = _items_of(conversation_id, expiry).where(item_table.c.item_id == item_id)
    row: Row[Any] | None = (await connection.execute(wanted)).one_or_none()
    return row


def _items_of(conversation_id: str, expiry: Expiry) -> Select[Any]:
    return (
        select(item_table)
        .join(table, table.c.id == item_table.c.conversation_id)
        .where(table.c.id == conversation_id, expiry.kept(table))
    )


def _conversation(row: Row[Any]) -> StoredConversation:
    return StoredConversation(
        id=row.id, created_at=row.created_at, metadata=row.metadata, settings=row.settings
    )
