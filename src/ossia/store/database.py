"""An open database: transactions that are begun, and end, as this package needs it.

SQLite has one writer at a time. Within the process writers wait in a fair queue; between
processes they wait in SQLite, in the thread of their connection. A transaction that writes takes
SQLite's lock at its begin, since a lock asked for later can be refused for good.

A transaction that has begun goes on when the request that wanted it is cancelled, so that no
connection is left in an unknown state; closing waits for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from typing import Any, TypeVar

from sqlalchemy import Connection, Insert, Table, event, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ossia.store.errors import StoreUnavailable
from ossia.store.tables import decode_json, encode_json
from ossia.store.urls import Location

logger = logging.getLogger(__name__)

BUSY_SECONDS = 30.0  # that a writer waits for other processes
CONNECT_SECONDS = 10.0
_ADVISORY_LOCK = 0x6F73736961  # "ossia"; any number that others do not use
_WRITES = "ossia_writes"
T = TypeVar("T")
Work = Callable[[AsyncConnection], Awaitable[T]]


class Database:
    """Runs pieces of work, each in one transaction. For one event loop."""

    def __init__(self, location: Location) -> None:
        """Connects to nothing yet. Raises ModuleNotFoundError if the driver is not installed."""
        self.location = location
        self.is_sqlite = not location.dsn
        self._engine = _sqlite(location) if self.is_sqlite else _postgresql(location)
        self._writer = self._engine.execution_options(**{_WRITES: True})
        self._queue = asyncio.Lock()
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._engine.dispose()

    async def read(self, work: Work[T]) -> T:
        """
        Raises:
            StoreUnavailable: the database does not answer.
        """
        return await self._run(self._read(work))

    async def write(self, work: Work[T], *, alone: bool = False) -> T:
        """All of it or nothing; durable when this returns.

        `alone`: no other work of this kind runs meanwhile, in any process.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        return await self._run(self._write(work, alone))

    @asynccontextmanager
    async def outside_transactions(self) -> AsyncIterator[AsyncConnection]:
        """For what opening the database takes. Errors come as they are."""
        async with self._engine.connect() as connection:
            yield connection

    def insert_new(self, table: Table) -> Insert:
        """An insert that leaves rows alone that are there already."""
        if self.is_sqlite:
            return sqlite.insert(table).on_conflict_do_nothing()
        return postgresql.insert(table).on_conflict_do_nothing()

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._closed:
            work.close()
            raise StoreUnavailable
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _read(self, work: Work[T]) -> T:
        async with AsyncExitStack() as stack:
            if self.location.in_memory:  # there is one connection for everybody
                await stack.enter_async_context(self._queue)
            stack.enter_context(self._failures_in_words())
            connection = await stack.enter_async_context(self._engine.connect())
            return await work(connection)

    async def _write(self, work: Work[T], alone: bool) -> T:
        async with AsyncExitStack() as stack:
            if self.is_sqlite:
                await stack.enter_async_context(self._queue)
            stack.enter_context(self._failures_in_words())
            connection = await stack.enter_async_context(self._writer.begin())
            if alone and not self.is_sqlite:
                await connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
            return await work(connection)

    @contextmanager
    def _failures_in_words(self) -> Iterator[None]:
        """The log says what failed; clients are told what they can do."""
        try:
            yield
        except IntegrityError:
            raise
        except (DBAPIError, PoolTimeout, OSError) as error:
            reason = getattr(error, "orig", None) or error
            logger.error("The response store %s failed: %s", self.location.shown, reason)
            raise StoreUnavailable from error


def _sqlite(location: Location) -> AsyncEngine:
    engine = create_async_engine(
        location.url,
        # The driver begins no transactions: `_begin` does, where there is something to write.
        connect_args={"isolation_level": None, "timeout": BUSY_SECONDS},
        json_serializer=encode_json,
        json_deserializer=decode_json,
    )
    event.listen(engine.sync_engine, "connect", _set_up)
    event.listen(engine.sync_engine, "begin", _begin)
    return engine


def _set_up(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    # Of the last commits some may be lost if the power fails, none if the process is killed.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: Connection) -> None:
    if connection.get_execution_options().get(_WRITES):
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _postgresql(location: Location) -> AsyncEngine:
    asyncpg: Any = import_module("asyncpg")  # without type hints; may not be installed

    async def connect() -> Any:
        return await asyncpg.connect(location.dsn, timeout=CONNECT_SECONDS)

    return create_async_engine(
        location.url,
        async_creator=connect,
        pool_pre_ping=True,  # the server may have been started anew
        pool_size=5,
        max_overflow=15,
        json_serializer=encode_json,
        json_deserializer=decode_json,
    )
