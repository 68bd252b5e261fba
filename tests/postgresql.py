"""A PostgreSQL cluster of the tests' own, where its programs are installed."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

START_SECONDS = 60


@dataclass(frozen=True, slots=True)
class PostgreSQL:
    """A running cluster of these tests' own."""

    programs: Path
    folder: Path  # of its socket
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def say(self, statement: str) -> None:
        subprocess.run([self.programs / "psql", *self.options, "-qc", statement], check=True)

    def is_ready(self) -> bool:
        return not subprocess.run([self.programs / "pg_isready", "-q", *self.options]).returncode

    @property
    def options(self) -> list[str]:
        return ["-h", str(self.folder), "-U", "postgres"]

    def new_schema(self) -> str:
        """The URL of a part of a database; it is made faster than a database."""
        name = f"test{next(self.numbers)}"
        self.say(f"CREATE SCHEMA {name}")
        return f"{self.url('postgres')}&search_path={name}"

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    programs = _postgresql_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed: no initdb on PATH or under /usr/lib/postgresql")
    # Short, since a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="ossia-pg-", dir="/tmp"))
    owner = _unprivileged()
    server: subprocess.Popen[bytes] | None = None
    try:
        if owner:
            os.chown(folder, owner["user"], owner["group"])
        data = folder / "data"
        options = ["-U", "postgres", "-A", "trust", "--no-sync", "--encoding=UTF8", "--locale=C"]
        subprocess.run(
            [programs / "initdb", *options, "-D", data],
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            **owner,
        )
        options = [
            "listen_addresses=",
            f"unix_socket_directories={folder}",
            "fsync=off",
            "full_page_writes=off",
        ]
        log = (folder / "log").open("wb")
        with log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", data, *(f"--{option}" for option in options)],
                stdout=log,
                stderr=log,
                cwd=folder,
                **owner,
            )
        cluster = PostgreSQL(programs, folder)
        deadline = time.monotonic() + START_SECONDS
        while not cluster.is_ready():
            told = (folder / "log").read_text()
            assert server.poll() is None, told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)
        yield cluster
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)  # at once, clients or not
            server.wait(START_SECONDS)
        shutil.rmtree(folder)


def _postgresql_programs() -> Path | None:
    """The folder of initdb and postgres."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


def _unprivileged() -> dict[str, Any]:
    """For subprocess: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
