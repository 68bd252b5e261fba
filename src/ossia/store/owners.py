"""Who generates which response, so that what a killed server leaves behind is found.

Each open store is an owner: a row that says which process it is and how long it is surely alive.
A heartbeat moves that time on. An owner is dead if it is of this host and its process is gone, or
if its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import (
    ColumnElement,
    Double,
    Row,
    cast,
    delete,
    exists,
    extract,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ossia.store import tables
from ossia.store.database import Database
from ossia.store.errors import StoreUnavailable

BEAT_SECONDS = 5.0
LEASE_SECONDS = 20.0
_SAME_START = 1.0  # seconds by which two readings of one process's start may differ


class Owner:
    """This open store among all that share the database."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        """`clock` is for SQLite, whose users share a machine; PostgreSQL has one of its own."""
        self.id = uuid.uuid4().hex
        self._database = database
        self._clock = clock
        self._host = _host()
        self._process = os.getpid()
        self._started = _start(self._process)
        self._heartbeat: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say that we live, and go on saying it until `stop`."""
        await self._database.write(self._beat)
        self._heartbeat = asyncio.create_task(self._beat_on())

    async def stop(self) -> None:
        """What is unfinished then belongs to nobody, and others find it at once."""
        if self._heartbeat is None:
            return
        self._heartbeat.cancel()
        await asyncio.gather(self._heartbeat, return_exceptions=True)
        self._heartbeat = None
        gone = delete(tables.owners).where(tables.owners.c.id == self.id)
        with contextlib.suppress(StoreUnavailable):  # logged; others find out by themselves
            await self._database.write(lambda connection: connection.execute(gone))

    async def forget_the_dead(self, connection: AsyncConnection) -> ColumnElement[bool]:
        """Remove them; tells which responses have an owner that is not alive.

        To be used in the same transaction, alone: an owner that comes to life while its
        responses are taken would not be seen.
        """
        now = (await connection.execute(select(self._now()))).scalar_one()
        rows = (await connection.execute(select(tables.owners))).all()
        dead = [row.id for row in rows if not self._alive(row, now)]
        await connection.execute(delete(tables.owners).where(tables.owners.c.id.in_(dead)))
        owner = tables.responses.c.owner
        return or_(owner.is_(None), ~exists().where(tables.owners.c.id == owner))

    def _alive(self, row: Row[Any], now: float) -> bool:
        if row.id == self.id:
            return True
        if row.host == self._host and not _runs(row.process, row.process_started):
            return False
        return bool(row.alive_until > now)

    async def _beat_on(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            with contextlib.suppress(StoreUnavailable):  # logged; the lease outlasts a few beats
                await self._database.write(self._beat)

    async def _beat(self, connection: AsyncConnection) -> None:
        until = self._now() + LEASE_SECONDS
        own = update(tables.owners).where(tables.owners.c.id == self.id).values(alive_until=until)
        if (await connection.execute(own)).rowcount:
            return
        # The first time, or others took us for dead: this process was stopped for a while.
        await connection.execute(
            insert(tables.owners).values(
                id=self.id,
                host=self._host,
                process=self._process,
                process_started=self._started,
                alive_until=until,
            )
        )

    def _now(self) -> ColumnElement[float]:
        if self._database.is_sqlite:
            return literal(self._clock())
        # Servers of several machines need not agree on the time.
        return cast(extract("epoch", func.clock_timestamp()), Double)


def _host() -> str:
    """Names what numbers processes: this start of this machine and, in containers, a part of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{uuid.getnode():x}"


def _runs(process: int, started: float) -> bool:
    """Whether the process with this number is still the one that started then."""
    try:
        if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(_start(process) - started) < _SAME_START
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _start(process: int) -> float:
    """Seconds from the start of the machine; counted so, setting its clock changes nothing."""
    boot = psutil.boot_time()
    return float(psutil.Process(process).create_time() - boot)
