"""The tables, alike in SQLite and PostgreSQL. Their prefix lets them share a database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA_VERSION = 1
_IDS_AT_ONCE = 500  # SQLite and PostgreSQL both allow many more


class IdText(TypeDecorator[str]):
    """Ids come from clients too, and may hold what a database refuses: NUL and lone surrogates.

    These are written as escapes, so that asking for such an id finds nothing instead of failing.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else stored_id(value)


def stored_id(text: str) -> str:
    """The id as it is written."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Few enough for one statement each."""
    return (ids[at : at + _IDS_AT_ONCE] for at in range(0, len(ids), _IDS_AT_ONCE))


def encode_json(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        return json.dumps(value)  # escapes lone surrogates, which clients do send


def decode_json(text: str | bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError:
        return json.loads(text)


metadata = MetaData()

schema = Table(
    "ossia_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),  # one row
)

owners = Table(
    "ossia_owners",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("process", BigInteger, nullable=False),
    Column("process_started", Double, nullable=False),  # seconds since the host's start
    Column("alive_until", Double, nullable=False),  # seconds since 1970, by the database's clock
)

responses = Table(
    "ossia_responses",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("status", Text, nullable=False),
    Column("background", Boolean, nullable=False),
    # No foreign keys: what a response refers to may be deleted before it.
    Column("previous_response_id", IdText),
    Column("conversation_id", IdText),
    Column("body", JSON, nullable=False),
    Column("input_items", JSON, nullable=False),
    Column("transcript", LargeBinary, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("owner", Text),  # who generates it, until it is finished
    Column("expires_at", Double),  # seconds since 1970; never if null
)
Index("ossia_responses_expire", responses.c.expires_at)
Index(
    "ossia_responses_owned",
    responses.c.owner,
    sqlite_where=responses.c.owner.is_not(None),
    postgresql_where=responses.c.owner.is_not(None),
)

events = Table(
    "ossia_events",
    metadata,
    Column(
        "response_id",
        IdText,
        ForeignKey(responses.c.id, ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("sequence_number", BigInteger, primary_key=True, autoincrement=False),
    Column("event", LargeBinary, nullable=False),
)

outputs = Table(  # where an output item stands, for those who know only its id
    "ossia_outputs",
    metadata,
    Column("item_id", IdText, primary_key=True),
    Column(
        "response_id",
        IdText,
        ForeignKey(responses.c.id, ondelete="CASCADE"),
        primary_key=True,
    ),
)
Index("ossia_outputs_of_response", outputs.c.response_id)

conversations = Table(
    "ossia_conversations",
    metadata,
    Column("id", IdText, primary_key=True),
    Column("created_at", BigInteger, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("next_position", BigInteger, nullable=False),  # of its items; whoever adds some locks it
    Column("expires_at", Double),
)
Index("ossia_conversations_expire", conversations.c.expires_at)

items = Table(
    "ossia_items",
    metadata,
    Column(
        "conversation_id",
        IdText,
        ForeignKey(conversations.c.id, ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("item_id", IdText, nullable=False),
    Column("response_id", IdText),
    Column("item", JSON, nullable=False),
    UniqueConstraint("conversation_id", "item_id"),
)
