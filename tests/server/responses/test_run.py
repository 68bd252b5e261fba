"""A response comes to its end whatever happens, and its end is in the store before it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from ossia.answer.assembler import MessageClosed, MessageOpened, VisibleText
from ossia.errors import EngineUnavailable, InternalError
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.metrics import Metrics
from ossia.server.responses.body import new_body
from ossia.server.responses.history import History
from ossia.server.responses.live import LiveResponses
from ossia.server.responses.output import Shown
from ossia.server.responses.prepare import PreparedTurn
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.run import ResponseRun
from ossia.server.responses.tools import RequestTools
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.toolset import Toolset
from ossia.server.usage import Usage
from ossia.store.errors import StoreUnavailable
from ossia.store.store import Store
from ossia.turn import Turn, UserMessage

pytestmark = pytest.mark.anyio
ANSWER = [MessageOpened("answer"), VisibleText("Hello."), MessageClosed(True)]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Loop:
    """Says the events one after the other; an exception among them is raised."""

    def __init__(self, *events: Any, waits: bool = False) -> None:
        self.added: list[Any] = []
        self.usage = Usage(3, 0, 2, 0)
        self.finish_reason, self.finish_details = "stop", None
        self.stopped = False
        self.said = asyncio.Event()
        self._events = events
        self._waits = waits

    async def run(self) -> AsyncGenerator[Any, None]:
        for event in self._events:
            if isinstance(event, Exception):
                raise event
            yield event
        self.said.set()
        if self._waits:
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True


@pytest.fixture
async def service(seal: ReasoningSeal) -> AsyncIterator[Any]:
    store = await Store.open("sqlite://")
    yield SimpleNamespace(
        store=store,
        seal=seal,
        tokenizer=Tokenizer(),
        live=LiveResponses(),
        metrics=Metrics(stats=None, restarts=None, streams=None),  # type: ignore[arg-type]
    )
    await store.close()


def make(service: Any, loop: Loop, **fields: Any) -> ResponseRun:
    request = ResponsesRequest.model_validate({"input": "Hi", **fields})
    item = {"id": "msg_in", "type": "message", "role": "user", "content": "Hi"}
    prepared = PreparedTurn(
        turn=Turn((UserMessage("Hi"),)),
        tools=RequestTools(Toolset()),
        history=History(),
        new_items=[UserMessage("Hi")],
        input_items=[item],
        approved=(),
        conversation_id=None,
        settings={"date": None},
    )
    return ResponseRun(
        service,
        prepared,
        loop,  # type: ignore[arg-type]
        new_body(request, "resp_1", "m", None),
        shown=Shown(),
        store=request.store is not False,
    )


async def events(run: ResponseRun) -> list[Any]:
    async with asyncio.timeout(30):
        return [event async for some in run.log.follow() for event in some]


async def stored(service: Any) -> Any:
    found = await service.store.get("resp_1")
    assert found is not None
    return found


@pytest.mark.parametrize("background", [False, True])
async def test_the_end_is_stored_before_it_is_told(service: Any, background: bool) -> None:
    run = make(service, Loop(*ANSWER), background=background)
    await run.start()
    assert (await stored(service)).status in ("queued", "in_progress")
    async for some in run.log.follow():
        if some[-1]["type"] == "response.completed":
            assert (await stored(service)).body == some[-1]["response"] == run.body
    assert bool(await service.store.events("resp_1")) == background


async def test_a_response_that_is_called_off_before_it_began_ends_as_cancelled(
    service: Any,
) -> None:
    loop = Loop(*ANSWER)
    run = make(service, loop)
    await run.start()
    run.cancel()
    assert (await events(run))[-1]["response"]["status"] == "cancelled"
    assert (await stored(service)).status == "cancelled"
    assert loop.stopped


async def test_a_response_that_is_called_off_keeps_what_it_said(service: Any) -> None:
    loop = Loop(*ANSWER[:2], waits=True)
    run = make(service, loop)
    await run.start()
    await loop.said.wait()
    run.cancel()
    run.cancel()
    last = (await events(run))[-1]
    assert (last["type"], last["response"]["status"]) == ("response.incomplete", "cancelled")
    [message] = (await stored(service)).body["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "Hello.")


async def test_an_end_is_not_called_off(service: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(service, Loop(*ANSWER))
    finish = service.store.finish

    async def slowly(response: Any) -> bool:
        run.cancel()
        run.fail("The server stops.")
        await asyncio.sleep(0)
        return bool(await finish(response))

    monkeypatch.setattr(service.store, "finish", slowly)
    await run.start()
    assert (await events(run))[-1]["type"] == "response.completed"
    assert (await stored(service)).status == "completed"


@pytest.mark.parametrize(
    ("fault", "code"),
    [(EngineUnavailable("Gone."), "engine_unavailable"), (ValueError("ours"), InternalError.code)],
)
async def test_a_fault_ends_it_as_failed(service: Any, fault: Exception, code: str) -> None:
    run = make(service, Loop(*ANSWER[:2], fault))
    await run.start()
    last = (await events(run))[-1]
    assert last["type"] == "response.failed"
    assert (
        last["response"]["error"]["code"] == code == (await stored(service)).body["error"]["code"]
    )
    assert run.error is not None


async def test_a_store_that_fails_at_the_end_is_told(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: Any) -> bool:
        raise StoreUnavailable

    run = make(service, Loop(*ANSWER))
    await run.start()
    monkeypatch.setattr(service.store, "finish", fail)
    told = await events(run)
    assert told[-1]["response"]["error"]["code"] == "store_unavailable"
    assert [event["sequence_number"] for event in told] == list(range(len(told)))


async def test_an_order_of_events_that_is_wrong_still_has_an_end(service: Any) -> None:
    run = make(service, Loop(MessageOpened("answer"), MessageOpened("answer"), MessageClosed(True)))
    await run.start()
    told = await events(run)
    assert told[-1]["type"] == "response.failed"
    assert (await stored(service)).status == "failed"


async def test_what_another_server_ended_stays_as_it_ended_it(service: Any) -> None:
    loop = Loop(*ANSWER, waits=True)
    run = make(service, loop, background=True)
    await run.start()
    await loop.said.wait()
    await service.store.update("resp_1", status="cancelled", body={**run.body, "by": "another"})
    run.cancel()
    last = (await events(run))[-1]
    assert last["response"]["by"] == run.body["by"] == "another"
    assert (await stored(service)).body["by"] == "another"


async def test_what_another_server_called_off_ends_by_itself(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossia.server.responses.run.FLUSH_SECONDS", -1)
    loop = Loop(MessageOpened("answer"), *[VisibleText("Hello.")] * 1000, MessageClosed(True))
    run = make(service, loop, background=True)
    await run.start()
    async for _ in run.log.follow():
        break
    await service.store.update("resp_1", status="cancelled", body={**run.body, "by": "another"})
    assert (await events(run))[-1]["response"]["by"] == "another"
    assert not loop.said.is_set()


async def test_the_server_that_stops_says_so(service: Any) -> None:
    loop = Loop(*ANSWER[:2], waits=True)
    run = make(service, loop)
    await run.start()
    await loop.said.wait()
    await service.live.close()
    assert "was stopped" in (await stored(service)).body["error"]["message"]
    assert service.live.get("resp_1") is None


async def test_what_is_not_to_be_stored_is_not(service: Any) -> None:
    run = make(service, Loop(*ANSWER), store=False)
    await run.start()
    assert (await events(run))[-1]["type"] == "response.completed"
    assert await service.store.get("resp_1") is None


async def test_who_waits_for_all_to_end_waits_for_those_in_the_background(service: Any) -> None:
    loop = Loop(*ANSWER, waits=True)
    run = make(service, loop, background=True)
    await run.start()
    waiting = asyncio.create_task(service.live.ended())
    await loop.said.wait()
    assert not waiting.done()
    run.cancel()
    async with asyncio.timeout(30):
        await waiting
    assert (await stored(service)).status == "cancelled"
