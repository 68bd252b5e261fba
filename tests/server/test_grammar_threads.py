"""Compiling is done beside everything else, for as long as is fair, and only while it is wanted."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ossia.engine.messages import Constraint
from ossia.errors import InvalidRequest, Overloaded
from ossia.server import grammar_threads
from ossia.server.grammar_threads import GrammarThreads
from ossia.turn import Turn, UserMessage

TURN = Turn(items=(UserMessage("Hello"),))


class Compiler:
    """Stands for the one that needs the vocabulary."""

    def __init__(self, _: object) -> None:
        pass


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Threads in which constraints were made."""
    threads: list[threading.Thread] = []

    def constraint(_: object, __: Turn, **___: Any) -> Constraint:
        threads.append(threading.current_thread())
        return Constraint(grammar="")

    monkeypatch.setattr(grammar_threads, "GrammarCompiler", Compiler)
    monkeypatch.setattr(grammar_threads, "turn_constraint", constraint)
    monkeypatch.setattr(grammar_threads, "COMPILE_SECONDS", 0.2)
    return threads


Make = Callable[..., GrammarThreads]


@pytest.fixture
def make(compiled: list[threading.Thread]) -> Iterator[Make]:
    """Makes the object under test; no thread of it outlives its test and writes into the next."""
    made: list[GrammarThreads] = []

    def make_threads(on_refusal: Callable[[], None] = lambda: None) -> GrammarThreads:
        made.append(GrammarThreads(None, on_refusal))  # type: ignore[arg-type]
        return made[-1]

    yield make_threads
    for threads in made:
        threads.close()


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_schemas_are_compiled_in_a_thread_of_their_own(compiled: list[Any], make: Make) -> None:
    asyncio.run(make().constrain(lambda: TURN, at_once=False))
    assert compiled != [threading.main_thread()]


def test_what_has_no_schema_does_not_wait_for_a_thread(compiled: list[Any], make: Make) -> None:
    async def run() -> None:
        threads = make()
        await threads.constrain(lambda: TURN, at_once=False)  # the compiler is there now
        await threads.constrain(lambda: TURN, at_once=True)

    asyncio.run(run())
    assert compiled[1] == threading.main_thread()


def test_a_compilation_that_takes_too_long_is_refused_and_counted(make: Make) -> None:
    refused: list[int] = []
    leave = threading.Event()

    def slow() -> Turn:
        leave.wait(5)
        return TURN

    async def run() -> None:
        threads = make(lambda: refused.append(1))
        with pytest.raises(InvalidRequest, match="simplify"):
            await threads.constrain(slow, at_once=False)

    asyncio.run(run())
    leave.set()
    assert refused == [1]


def test_who_never_had_a_turn_is_told_to_come_again(make: Make) -> None:
    leave = threading.Event()

    def slow() -> Turn:
        leave.wait(5)
        return TURN

    async def run() -> None:
        threads = make()
        slow_ones = [asyncio.create_task(threads.constrain(slow, at_once=False)) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded):
            await threads.constrain(lambda: TURN, at_once=False)
        leave.set()
        await asyncio.gather(*slow_ones, return_exceptions=True)

    asyncio.run(run())


def test_a_client_that_leaves_before_its_turn_is_never_compiled(
    compiled: list[Any], make: Make
) -> None:
    leave = threading.Event()
    made: list[str] = []

    def turn(name: str) -> Callable[[], Turn]:
        def make_turn() -> Turn:
            made.append(name)
            leave.wait(5)
            return TURN

        return make_turn

    async def run() -> None:
        threads = make()
        busy = [asyncio.create_task(threads.constrain(turn("busy"), at_once=False)) for _ in "ab"]
        await wait_until(lambda: len(made) == 2)
        gone = asyncio.create_task(threads.constrain(turn("gone"), at_once=False))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        leave.set()
        await asyncio.gather(*busy, return_exceptions=True)
        await threads.constrain(turn("next"), at_once=False)

    asyncio.run(run())
    assert made == ["busy", "busy", "next"]
    assert len(compiled) == 3
