"""A database made ready for use, or a sentence that says what to change."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.errors import StartupError
from ossia.store import tables
from ossia.store.database import BUSY_SECONDS, Database
from ossia.store.errors import StoreUnavailable
from ossia.store.urls import Location, create_private_file, locate


async def open_database(url: str) -> Database:
    """Connect, and create what is missing. Several processes may do so at once.

    Raises:
        StartupError: one sentence that names the database and says what to change.
    """
    location = locate(url)
    with _explaining(location):
        if location.file is not None:
            create_private_file(location.file)
        database = Database(location)
        try:
            if location.file is not None:
                await _use_write_ahead_log(database)
            elif not location.in_memory:
                async with database.outside_transactions():
                    pass  # only to fail with an error that says why
            await database.write(lambda connection: _create(connection, location), alone=True)
        except BaseException:
            await database.close()
            raise
        return database


async def _use_write_ahead_log(database: Database) -> None:
    """So that readers and the writer do not wait for each other; noted in the file, for ever."""
    give_up = time.monotonic() + BUSY_SECONDS
    async with database.outside_transactions() as connection:
        while True:
            try:
                await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                return
            except OperationalError as error:
                # SQLite does not wait for other processes here, as it does elsewhere.
                if "locked" not in str(error.orig) or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(0.02)


async def _create(connection: AsyncConnection, location: Location) -> None:
    await connection.run_sync(tables.schema.create, checkfirst=True)
    version = (await connection.execute(select(tables.schema.c.version))).scalar()
    if version is not None and version > tables.SCHEMA_VERSION:
        raise StartupError(
            f"The response store {location.shown} was made by a newer Ossia (its schema is "
            f"version {version}, this one knows {tables.SCHEMA_VERSION}); update Ossia, or name "
            "another store."
        )
    if version is None:  # it is written in the same transaction as the tables are made
        await connection.run_sync(tables.metadata.create_all)
        await connection.execute(insert(tables.schema).values(version=tables.SCHEMA_VERSION))


@contextmanager
def _explaining(location: Location) -> Iterator[None]:
    try:
        yield
    except StartupError:
        raise
    except StoreUnavailable as error:
        raise StartupError(_explanation(location, error.__cause__)) from error
    except ModuleNotFoundError as error:
        raise StartupError(
            f"The response store {location.shown} needs the package {error.name}; install it with "
            f"pip install {error.name}."
        ) from error
    except Exception as error:  # of SQLAlchemy, the driver, the system; they share no base
        raise StartupError(_explanation(location, error)) from error


def _explanation(location: Location, error: BaseException | None) -> str:
    reason = error.orig if isinstance(error, DBAPIError) else error
    why = " ".join(str(reason).split()).rstrip(".") or type(reason).__name__
    if location.file is None:
        return (
            f"The response store {location.shown} cannot be used ({why}); check the URL, and that "
            "the database runs and lets this user in."
        )
    if isinstance(reason, OSError):
        why = reason.strerror or why
    if "not a database" in why or "malformed" in why:
        return (
            f"The file {location.file} is no SQLite database, or is damaged ({why}); name another "
            "file, or move this one away."
        )
    return (
        f"The response store {location.file} cannot be used ({why}); name a file in a folder "
        "that this user may write to, on a disk that is not full."
    )
