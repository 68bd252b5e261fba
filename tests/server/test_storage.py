"""The store of a server: where it is, and what is left in it by servers that are dead."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ossia.config import ServerConfig
from ossia.errors import ConfigError, InvalidRequest, StartupError
from ossia.server.storage import Storage, end_of_the_dead
from ossia.store.records import StoredResponse
from ossia.store.store import Store

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of this user's data."""
    folder = tmp_path / "home"
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each store that was opened is open still."""
    states: list[bool] = []
    open_, close = Store.open, Store.close
    numbers: dict[int, int] = {}

    async def opening(url: str, **options: Any) -> Store:
        store = await open_(url, **options)
        numbers[id(store)] = len(states)
        states.append(True)
        return store

    async def closing(store: Store) -> None:
        await close(store)
        states[numbers[id(store)]] = False

    monkeypatch.setattr(Store, "open", opening)
    monkeypatch.setattr(Store, "close", closing)
    return states


TOLD = [
    (0, b'{"type":"response.created","sequence_number":0}'),
    (1, b'{"type":"response.in_progress","sequence_number":1}'),
    (2, b'{"type":"response.output_item.done","output_index":1,"item":{"id":"mcp_2"}}'),
    (3, b'{"type":"response.output_item.done","output_index":0,"item":{"id":"mcp_1"}}'),
    (4, b'{"type":"response.output_item.added","output_index":2,"item":{"id":"msg_1"}}'),
]


def left(name: str, **fields: Any) -> StoredResponse:
    """A response that was under way."""
    body: dict[str, Any] = {
        "id": name,
        "status": "in_progress",
        "output": [],
        "usage": None,
        "error": None,
    }
    return StoredResponse(
        id=name,
        created_at=1,
        status="in_progress",
        background=fields.pop("background", True),
        previous_response_id=None,
        conversation_id=None,
        body=body,
        input_items=[],
        **fields,
    )


async def test_a_response_of_a_dead_server_ends_as_failed_with_a_last_event(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'responses.db'}"
    dead = await Store.open(url)
    await dead.begin(left("resp_told"))
    await dead.append_events("resp_told", TOLD)
    await dead.begin(left("resp_silent"))
    await dead.close()

    storage = await Storage.open(ServerConfig(response_store=url, response_key="k" * 32))
    try:
        for name, number in (("resp_told", 5), ("resp_silent", 0)):
            stored = await storage.store.get(name)
            assert stored is not None
            assert stored.status == stored.body["status"] == "failed"
            assert "send the request again" in stored.body["error"]["message"]
            last_number, data = (await storage.store.events(name))[-1]
            last = msgspec.json.decode(data)
            assert last["type"] == "response.failed"
            assert last["sequence_number"] == last_number == number
            assert last["response"] == stored.body
            whole = [{"id": "mcp_1"}, {"id": "mcp_2"}] if name == "resp_told" else []
            assert stored.body["output"] == whole
    finally:
        await storage.close()


async def test_what_a_living_server_works_on_is_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'responses.db'}"
    living, other = await Store.open(url), await Store.open(url)
    await living.begin(left("resp_1"))
    await end_of_the_dead(other)
    stored = await other.get("resp_1")
    assert stored is not None
    assert stored.status == "in_progress"
    await living.close()
    await other.close()


async def test_nobody_says_where_and_it_is_in_the_users_data(home: Path) -> None:
    storage = await Storage.open(ServerConfig())
    sealed = storage.seal.seal_text("Hm.")
    await storage.close()
    assert (home / "ossia" / "responses.db").exists()
    again = await Storage.open(ServerConfig())
    assert again.seal.open_text(sealed, "input[0]") == "Hm."  # with the key of the file
    await again.close()


def _cannot_be_written(home: Path) -> None:
    home.write_text("")  # a file, where a folder should be


def _damaged_key(home: Path) -> None:
    (home / "ossia").mkdir(parents=True, exist_ok=True)
    (home / "ossia" / "response.key").write_bytes(b"short")


@pytest.mark.parametrize("spoil", [_cannot_be_written, _damaged_key])
async def test_a_default_place_that_cannot_be_used_is_replaced_by_memory(
    home: Path,
    opened: list[bool],
    spoil: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoil(home)
    with caplog.at_level(logging.WARNING):
        storage = await Storage.open(ServerConfig())
    try:
        [warning] = caplog.records
        assert "kept in memory" in warning.message
        assert storage.seal.open_text(storage.seal.seal_text("Hm."), "input[0]") == "Hm."
        await storage.store.begin(left("resp_1"))
        assert await storage.store.get("resp_1") is not None
        assert opened.count(True) == 1
    finally:
        await storage.close()
    assert not any(opened)


async def test_a_place_that_was_asked_for_and_cannot_be_used_is_refused(
    home: Path, tmp_path: Path, opened: list[bool]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError) as refused:
        await Storage.open(ServerConfig(response_store=f"sqlite:///{tmp_path}/file/responses.db"))
    assert "file/responses.db" in refused.value.message
    _damaged_key(home)
    with pytest.raises(StartupError) as refused:
        await Storage.open(ServerConfig(response_store=f"sqlite:///{tmp_path}/responses.db"))
    assert "response.key" in refused.value.message
    assert not any(opened)


async def test_a_key_that_is_too_short_is_refused(home: Path, opened: list[bool]) -> None:
    for place in ("memory", None):
        with pytest.raises(ConfigError):
            await Storage.open(ServerConfig(response_key="short", response_store=place))
    assert not any(opened)


async def test_memory_needs_no_folder_and_has_a_key_of_its_own(home: Path) -> None:
    first = await Storage.open(ServerConfig(response_store="memory"))
    second = await Storage.open(ServerConfig(response_store="memory"))
    sealed = first.seal.seal_text("Hm.")
    with pytest.raises(InvalidRequest):
        second.seal.open_text(sealed, "input[0]")
    await first.close()
    await second.close()
    assert not home.exists()
