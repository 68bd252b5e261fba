"""Which database a URL means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from ossia.errors import StartupError

_POSTGRESQL = ("postgresql", "postgres", "postgresql+asyncpg")
_SQLITE = ("sqlite", "sqlite+aiosqlite")


@dataclass(frozen=True, slots=True)
class Location:
    """A database that this package can use."""

    url: URL  # for SQLAlchemy, with the driver
    shown: str  # for people: without password and options
    file: Path | None = None  # of SQLite, unless it is in memory
    dsn: str = ""  # of PostgreSQL, in the form of its own tools

    @property
    def in_memory(self) -> bool:
        return not self.dsn and self.file is None


def locate(url: str) -> Location:
    """
    Raises:
        StartupError: neither SQLite nor PostgreSQL is meant.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StartupError(
            "The URL of the response store cannot be read; write it as sqlite:///FILE or "
            "postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    shown = parsed.set(query={}).render_as_string(hide_password=True)
    if parsed.drivername in _POSTGRESQL:
        # asyncpg reads the URL itself: it knows sslmode, several hosts, the password file.
        dsn = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        return Location(URL.create("postgresql+asyncpg"), shown, dsn=dsn)
    if parsed.drivername in _SQLITE:
        name = parsed.database
        if parsed.host:
            raise StartupError(
                f"The response store {shown} names a host, but SQLite is a file; write "
                "sqlite:///FILE with three slashes, and four if the path begins with one."
            )
        file = None if name in (None, "", ":memory:") else Path(name).expanduser()
        database = ":memory:" if file is None else str(file)
        return Location(URL.create("sqlite+aiosqlite", database=database), shown, file=file)
    raise StartupError(
        f"The response store {shown} is neither SQLite nor PostgreSQL; write sqlite:///FILE or "
        "postgresql://USER:PASSWORD@HOST/DATABASE."
    )


def create_private_file(file: Path) -> None:
    """Make the file, and folders that are missing, unreadable for others. What exists is kept.

    SQLite gives the files that it puts beside this one the same mode.

    Raises:
        OSError: it can be neither made nor opened for writing.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
