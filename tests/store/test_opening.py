"""A store opens where it can, and says in one sentence what to change where it cannot."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from ossia.errors import StartupError
from ossia.store import tables
from ossia.store.errors import StoreUnavailable
from ossia.store.location import default_url
from ossia.store.opening import open_database
from ossia.store.records import StoredResponse
from ossia.store.store import Store

pytestmark = pytest.mark.anyio
Make = Callable[..., StoredResponse]


async def _refusal(url: str) -> str:
    with pytest.raises(StartupError) as refused:
        await Store.open(url)
    message = refused.value.message
    assert message.endswith(".")
    assert "\n" not in message
    return message


async def test_the_default_is_a_private_file_in_the_users_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, response: Make
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    url = default_url()
    file = tmp_path / "data" / "ossia" / "responses.db"
    assert url == f"sqlite:///{file}"
    assert not file.parent.exists()
    store = await Store.open(url)
    await store.begin(response())
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert {path.name for path in file.parent.iterdir()} > {file.name}  # the log of SQLite
    for path in file.parent.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await store.close()


async def test_a_store_is_there_when_it_is_opened_again(url: str, response: Make) -> None:
    for _ in range(2):
        store = await Store.open(url)
        if await store.get("resp_1") is None:
            await store.begin(response())
            assert await store.get("resp_1") == response()
        await store.close()
    store = await Store.open(url)
    assert await store.get("resp_1") == response()
    await store.close()


async def test_many_may_open_a_new_database_at_once(url: str, response: Make) -> None:
    stores = await asyncio.gather(*(Store.open(url) for _ in range(6)))
    await asyncio.gather(*(s.begin(response(f"resp_{n}")) for n, s in enumerate(stores)))
    assert len(await stores[0].transcripts([f"resp_{n}" for n in range(6)])) == 6
    for store in stores:
        await store.close()


async def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    database = await open_database(url)
    await database.write(
        lambda connection: connection.execute(
            update(tables.schema).values(version=tables.SCHEMA_VERSION + 1)
        )
    )
    await database.close()
    message = await _refusal(url)
    assert "newer" in message
    assert "update Ossia" in message


@pytest.mark.parametrize("content", [b"no database " * 1000, b"SQLite format 3\0" + b"x" * 5000])
async def test_a_file_that_is_no_database_is_refused_and_kept(
    tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(content)
    message = await _refusal(f"sqlite:///{file}")
    assert str(file) in message
    assert "name another file" in message
    assert file.read_bytes() == content


async def test_a_folder_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "responses.db", tmp_path):
        message = await _refusal(f"sqlite:///{path}")
        assert str(path) in message
        assert "may write" in message


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
async def test_a_read_only_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "may write" in await _refusal(f"sqlite:///{tmp_path / 'responses.db'}")


@pytest.mark.parametrize(
    "url", ["mysql://me:hidden@host/name", "responses.db", "", "sqlite://folder/file", "a://b:c:d"]
)
async def test_a_url_that_is_of_neither_database_is_refused(url: str) -> None:
    message = await _refusal(url)
    assert "sqlite:///FILE" in message
    assert "hidden" not in message


async def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there
        port = taken.getsockname()[1]
        message = await _refusal(f"postgresql://me:hidden@127.0.0.1:{port}/name?password=hidden")
    assert f"127.0.0.1:{port}/name" in message
    assert "check the URL" in message
    assert "hidden" not in message


async def test_a_database_that_is_not_there_is_named(postgresql: Any) -> None:
    message = await _refusal(postgresql.url("nothing"))
    assert "does not exist" in message
    assert "check the URL" in message


@pytest.mark.parametrize(
    ("package", "url"), [("asyncpg", "postgresql://host/name"), ("aiosqlite", "sqlite://")]
)
async def test_a_driver_that_is_not_installed_is_named(
    package: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert f"pip install {package}" in await _refusal(url)


async def test_a_database_that_goes_away_is_told_in_words_for_clients(
    url: str, response: Make, caplog: pytest.LogCaptureFixture
) -> None:
    store, other = await Store.open(url), await open_database(url)
    await other.write(lambda connection: connection.run_sync(tables.metadata.drop_all))
    await other.close()
    for attempt in (store.get("resp_1"), store.begin(response())):
        with pytest.raises(StoreUnavailable) as failed:
            await attempt
        assert "ossia_responses" not in failed.value.message
    assert "ossia_responses" in caplog.text
    await store.close()


async def test_a_closed_store_is_unavailable(url: str) -> None:
    store = await Store.open(url)
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.get("resp_1")


async def test_connections_that_the_server_ended_are_made_anew(
    postgresql: Any, response: Make
) -> None:
    store = await Store.open(postgresql.new_schema())
    await store.begin(response())
    postgresql.say(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    assert await store.get("resp_1") == response()
    await store.close()


async def test_a_database_that_is_dropped_makes_the_store_unavailable(
    postgresql: Any, response: Make
) -> None:
    postgresql.say("CREATE DATABASE dropped")
    store = await Store.open(postgresql.url("dropped"))
    postgresql.say("DROP DATABASE dropped WITH (FORCE)")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await store.begin(response())
    await store.close()
