"""Every test of the store runs on SQLite, and on PostgreSQL where its programs are installed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import Store

from ..postgresql import PostgreSQL


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'responses.db'}"
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql.new_schema()


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = await Store.open(url)
    yield opened
    await opened.close()


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def response() -> Callable[..., StoredResponse]:
    """Makes responses; what a test does not name does not matter to it."""

    def make(id: str = "resp_1", **fields: Any) -> StoredResponse:
        defaults: dict[str, Any] = {
            "created_at": 1_700_000_000,
            "status": "in_progress",
            "background": False,
            "previous_response_id": None,
            "conversation_id": None,
            "body": {"id": id},
            "input_items": [],
        }
        return StoredResponse(id=id, **(defaults | fields))

    return make


@pytest.fixture
def conversation() -> Callable[..., StoredConversation]:
    def make(id: str = "conv_1", **fields: Any) -> StoredConversation:
        defaults: dict[str, Any] = {"created_at": 1_700_000_000, "metadata": {}}
        return StoredConversation(id=id, **(defaults | fields))

    return make
