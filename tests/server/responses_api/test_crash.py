"""A server that is killed in the middle of its work, and started again on the same store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response

from ...postgresql import PostgreSQL
from ..conftest import StartServer, wait_for
from .conftest import ENDLESS, HELLO, WEATHER, as_input, asker, kinds, result_of, strict_client

RUNNING = 25  # of each sort
SECONDS = 60  # a busy machine is slow
STOPPED = "The server stopped while this response ran; please send the request again."


@dataclass
class Crash:
    """What clients knew of a server when it was killed, and the one that came after it."""

    client: OpenAI  # of the second server
    finished: list[Response]
    prompt_tokens: int  # of a request that continues the first of these, on the first server
    background: list[str]  # ids of what ran in the background
    conversation: str  # id of the one that a response in the background continued
    streamed: dict[str, list[Any]]  # events that had come, by id; the first is in the background

    @property
    def in_flight(self) -> list[str]:
        return [*self.background, *self.streamed]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path_factory.mktemp('crash') / 'responses.db'}"
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return postgresql.new_schema()


@pytest.fixture(scope="module")
def crash(store: str, start_server: StartServer) -> Iterator[Crash]:
    """The first server tells the model a date, the second one does not."""
    options = ("--response-store", store)
    first = start_server(*options, "--prompt-date", "2025-01-01")
    with strict_client(first.url, timeout=SECONDS) as client:
        left = _work(client)
        first.kill()
        _stop_watching(left)
    second = start_server(*options, "--prompt-date", "none")
    with strict_client(second.url, timeout=SECONDS) as client:
        yield Crash(client, **left.known())
    assert second.stop() == 0


class _Work:
    """Clients of the first server."""

    def __init__(self, client: OpenAI) -> None:
        self.client = client
        self.finished: list[Response] = []
        self.prompt_tokens = 0
        self.background: list[str] = []
        self.conversation = client.conversations.create().id
        self.streams: list[list[Any]] = []
        self.threads: list[threading.Thread] = []

    def watch(self, **fields: Any) -> None:
        """Ask for a stream, and read it in a thread of its own until it breaks."""
        asked = {**HELLO, **ENDLESS, **fields}
        seen: list[Any] = []
        self.streams.append(seen)

        def read() -> None:
            with suppress(Exception):  # which one is up to the SDK and its HTTP client
                for event in self.client.responses.create(**asked, stream=True):
                    seen.append(event)

        self.threads.append(threading.Thread(target=read))
        self.threads[-1].start()

    def known(self) -> dict[str, Any]:
        return {
            "finished": self.finished,
            "prompt_tokens": self.prompt_tokens,
            "background": self.background,
            "conversation": self.conversation,
            "streamed": {seen[0].response.id: seen for seen in self.streams},
        }


def _work(client: OpenAI) -> _Work:
    ask = asker(client)
    work = _Work(client)
    called = ask(tools=[WEATHER])
    answered = ask(previous_response_id=called.id, input=[result_of(called)])
    work.finished = [answered, called, ask(conversation=work.conversation)]
    work.prompt_tokens = client.responses.input_tokens.count(
        **HELLO, previous_response_id=answered.id
    ).input_tokens
    work.watch(background=True)
    # For longer than events wait for their way into the store, before the others come.
    wait_for(lambda: len(work.streams[0]) > 500, SECONDS)
    for _ in range(RUNNING - 1):
        work.watch()
    begin = {**HELLO, **ENDLESS, "background": True}
    with ThreadPoolExecutor(5) as threads:
        begun = [
            threads.submit(client.responses.create, **begin, **fields)
            for fields in [{"conversation": work.conversation}, *[{}] * (RUNNING - 1)]
        ]
        work.background = [one.result().id for one in begun]
    wait_for(lambda: all(work.streams), SECONDS)
    return work


def _stop_watching(work: _Work) -> None:
    for thread in work.threads:
        thread.join(SECONDS)
        assert not thread.is_alive()


def test_every_response_that_ran_is_ended_as_failed(crash: Crash) -> None:
    assert len(set(crash.in_flight)) == 2 * RUNNING
    for response_id in crash.in_flight:
        response = crash.client.responses.retrieve(response_id)
        assert response.status == "failed"
        assert response.error is not None
        assert (response.error.code, response.error.message) == ("server_error", STOPPED)


def test_what_had_finished_is_as_it_was(crash: Crash) -> None:
    for response in crash.finished:
        assert crash.client.responses.retrieve(response.id) == response


def test_every_stream_comes_to_its_end(crash: Crash) -> None:
    with ThreadPoolExecutor(5) as threads:
        streams = list(threads.map(lambda one: _events(crash.client, one), crash.in_flight))
    for events in streams:
        numbers = [event.sequence_number for event in events]
        assert numbers == list(range(len(events)))
        assert [event.type for event in events].count("response.failed") == 1
        assert events[-1].type == "response.failed"


def test_events_of_the_background_are_kept_but_for_the_last_moment(crash: Crash) -> None:
    response_id, seen = next(iter(crash.streamed.items()))
    *kept, last = _events(crash.client, response_id)
    assert last.type == "response.failed"
    assert len(kept) > 20
    both = min(len(kept), len(seen))
    assert kept[:both] == seen[:both]


def test_a_stream_goes_on_where_the_client_lost_it(crash: Crash) -> None:
    for response_id, seen in crash.streamed.items():
        after = seen[-1].sequence_number
        *_, last = _events(crash.client, response_id, starting_after=after)
        assert last.type == "response.failed"
        assert last.sequence_number > after


def test_a_finished_response_can_be_continued(crash: Crash, script: Any) -> None:
    answered, called, _ = crash.finished
    ask = asker(crash.client)
    assert ask(previous_response_id=answered.id).output_text == script.answer
    again = ask(previous_response_id=called.id, input=[result_of(called)])
    assert again.output_text == answered.output_text


def test_a_continued_conversation_keeps_its_date(crash: Crash) -> None:
    answered, called, _ = crash.finished
    counted = crash.client.responses.input_tokens.count(**HELLO, previous_response_id=answered.id)
    assert counted.input_tokens == crash.prompt_tokens
    said = [{"role": "user", "content": "Hello"}, *as_input(called), result_of(called)]
    said += [*as_input(answered), {"role": "user", "content": "Hello"}]
    undated = crash.client.responses.input_tokens.count(**{**HELLO, "input": said})
    assert undated.input_tokens < crash.prompt_tokens


def test_a_conversation_goes_on_after_a_response_of_it_was_lost(crash: Crash, script: Any) -> None:
    response = asker(crash.client)(conversation=crash.conversation)
    assert response.output_text == script.answer
    items = crash.client.conversations.items.list(crash.conversation, order="asc", limit=100)
    assert [item.id for item in items][-2:] == [item.id for item in response.output]


def test_a_response_that_failed_can_be_continued(crash: Crash) -> None:
    response = asker(crash.client)(previous_response_id=crash.background[-1])
    assert kinds(response) == ["reasoning", "message"]


def test_a_response_that_failed_can_be_deleted(crash: Crash) -> None:
    crash.client.responses.delete(crash.background[1])
    with pytest.raises(BadRequestError):
        asker(crash.client)(previous_response_id=crash.background[1])


def _events(client: OpenAI, response_id: str, **fields: Any) -> list[Any]:
    return list(client.responses.retrieve(response_id, stream=True, timeout=SECONDS, **fields))
