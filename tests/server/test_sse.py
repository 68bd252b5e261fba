"""What a real server does only after long silences or by a fault of its own, so it is called
directly: keep-alive comments, failures in the middle of a stream, failures of a handler."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from ossia.engine.messages import EngineStats
from ossia.errors import EngineUnavailable
from ossia.server import sse
from ossia.server.access_log import AccessLog
from ossia.server.metrics import Metrics
from ossia.server.sse import DONE, EventStream, event

SCOPE = {"type": "http", "method": "GET", "path": "/", "raw_path": b"/", "ossia.request_id": "r1"}


def sent(app: Any, *, leave_after: float = 60.0) -> list[dict[str, Any]]:
    """The messages that `app` sends to a client that leaves after so many seconds."""
    messages: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(leave_after)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        messages.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    return messages


def text(messages: list[dict[str, Any]]) -> str:
    return b"".join(message.get("body", b"") for message in messages).decode()


def test_long_silences_are_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_SECONDS", 0.05)

    async def events() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.18)
        yield event("late")
        yield DONE

    comments, _, rest = text(sent(EventStream(events()))).partition('data: "late"')
    assert comments.count(": keep-alive\n\n") == 3
    assert rest == "\n\ndata: [DONE]\n\n"


def test_a_refusal_in_the_middle_is_the_last_event() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event("first")
        raise EngineUnavailable("The engine stopped.")

    messages = sent(EventStream(events()))
    _, last, end = text(messages).split("\n\n")
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "The engine stopped."
    assert end == ""
    assert messages[-1]["more_body"] is False


def test_a_fault_in_the_middle_names_the_request_and_not_the_reason() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event("first")
        raise ZeroDivisionError("a secret")

    shown = text(sent(EventStream(events())))
    assert "r1" in shown
    assert "secret" not in shown


def test_the_iterator_is_closed_when_the_client_leaves() -> None:
    ended = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            yield event("first")
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    sent(EventStream(events()), leave_after=0.05)
    assert ended == [True]


def test_a_failing_handler_is_a_500_in_the_usual_shape() -> None:
    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("a secret")

    metrics = Metrics(EngineStats, lambda: 0, lambda: 0)
    messages = sent(AccessLog(failing, metrics))
    assert messages[0]["status"] == 500
    headers = dict(messages[0]["headers"])
    error = json.loads(text(messages))["error"]
    assert error["code"] == "internal_error"
    assert headers[b"x-request-id"].decode() in error["message"]
    assert "secret" not in error["message"]
    assert b'ossia_requests_total{endpoint="other",status="500"} 1.0' in metrics.text()
