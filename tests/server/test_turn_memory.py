"""What a client sends back unchanged becomes the tokens that were generated; all else stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from ossia.server.turn_memory import SentTurn, TurnMemory
from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

ASKED: list[Item] = [UserMessage("Weather in Paris and Rome?")]
CALLS = [ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "weather", "{}")]
CALLING = SentTurn([5, 6, 7], "One moment.", "Look it up.", CALLS)
RESULTS: list[Item] = [ToolResult("c2", "weather", "rain"), ToolResult("c1", "weather", "sun")]
ANSWER = SentTurn([8, 9], "Sun and rain.", "Done.", ())


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def spoken(turn: SentTurn, *, reasoning: bool = False, content: bool = True) -> list[Item]:
    """The turn as an assistant message."""
    items: list[Item] = [Reasoning(turn.reasoning)] if reasoning else []
    if content:
        channel = "commentary" if turn.calls else "final"
        items.append(AssistantMessage(turn.content, channel))  # type: ignore[arg-type]
    return items + list(turn.calls)


def after(memory: TurnMemory, items: Sequence[Item], turn: SentTurn) -> None:
    memory.remember(memory.recall(items).key, turn)


@pytest.fixture
def memory() -> TurnMemory:
    memory = TurnMemory()
    after(memory, ASKED, CALLING)
    return memory


@pytest.mark.parametrize("reasoning", [False, True])
@pytest.mark.parametrize("content", [False, True])
def test_a_calling_turn_is_known_with_and_without_what_clients_drop(
    memory: TurnMemory, reasoning: bool, content: bool
) -> None:
    said = spoken(CALLING, reasoning=reasoning, content=content)
    recalled = memory.recall([*ASKED, *said, *RESULTS])
    assert recalled.items == (*ASKED, GeneratedTokens((5, 6, 7)), *RESULTS)


def test_a_calling_turn_is_known_in_another_conversation(memory: TurnMemory) -> None:
    """Clients shorten what came before."""
    recalled = memory.recall([UserMessage("Summary."), *spoken(CALLING), *RESULTS])
    assert recalled.items[1] == GeneratedTokens((5, 6, 7))


def test_arguments_may_be_written_anew(memory: TurnMemory) -> None:
    calls = [dataclasses.replace(CALLS[0], arguments='{"city":"Paris"}'), CALLS[1]]
    assert memory.recall([*ASKED, *calls]).items[1:] == (GeneratedTokens((5, 6, 7)),)


@pytest.mark.parametrize(
    "said",
    [
        [Reasoning("Another thought."), *CALLS],
        [AssistantMessage("Another preamble.", "commentary"), *CALLS],
        [dataclasses.replace(CALLS[0], name="other"), CALLS[1]],
        [dataclasses.replace(CALLS[0], arguments='{"city": "Rome"}'), CALLS[1]],
        [dataclasses.replace(CALLS[0], arguments='{"city": '), CALLS[1]],
        [CALLS[1], CALLS[0]],
        CALLS[:1],
        [*CALLS, ToolCall("c3", "weather", "{}")],
    ],
)
def test_a_turn_that_the_client_changed_is_taken_as_sent(
    memory: TurnMemory, said: list[Item]
) -> None:
    items = (*ASKED, *said, *RESULTS)
    assert memory.recall(items).items == items


def test_calls_with_other_ids_are_known_by_their_conversation(memory: TurnMemory) -> None:
    renamed = [dataclasses.replace(call, call_id=f"x{i}") for i, call in enumerate(CALLS)]
    said = [AssistantMessage(CALLING.content, "commentary"), *renamed]
    assert memory.recall([*ASKED, *said]).items[1:] == (GeneratedTokens((5, 6, 7)),)
    elsewhere = (UserMessage("Else?"), *said)
    assert memory.recall(elsewhere).items == elsewhere


def test_an_answer_is_known_in_its_own_conversation_only(memory: TurnMemory) -> None:
    before = [*ASKED, *spoken(CALLING), *RESULTS]
    after(memory, before, ANSWER)
    said = spoken(ANSWER, reasoning=True)
    follow = UserMessage("Thanks.")
    known = memory.recall([*before, *said, follow]).items
    assert known[-2:] == (GeneratedTokens((8, 9)), follow)
    changed = [UserMessage("Weather?"), *before[1:], *said, follow]
    assert memory.recall(changed).items[-3:] == (*said, follow)


def test_an_answer_to_a_remembered_answer_is_known_too(memory: TurnMemory) -> None:
    before = [*ASKED, *spoken(ANSWER), UserMessage("And now?")]
    after(memory, ASKED, ANSWER)
    after(memory, before, SentTurn([1, 2], "Now.", "", ()))
    items = memory.recall([*before, AssistantMessage("Now.")]).items
    assert items == (
        *ASKED,
        GeneratedTokens((8, 9)),
        UserMessage("And now?"),
        GeneratedTokens((1, 2)),
    )


def test_a_thought_without_an_answer_is_no_turn() -> None:
    memory = TurnMemory()
    after(memory, ASKED, ANSWER)
    items = [*ASKED, *spoken(ANSWER), Reasoning("Cut off.")]
    assert memory.recall(items).items == (*ASKED, GeneratedTokens((8, 9)), Reasoning("Cut off."))


def test_the_turns_used_last_stay() -> None:
    memory = TurnMemory(max_tokens=300)  # room for four short turns
    for number in range(4):
        after(memory, [UserMessage(str(number))], ANSWER)
    for number in (0, 4):
        items = [UserMessage(str(number)), *spoken(ANSWER)]
        memory.recall(items)
        after(memory, [UserMessage(str(number))], ANSWER)
    known = [
        isinstance(
            memory.recall([UserMessage(str(number)), *spoken(ANSWER)]).items[-1], GeneratedTokens
        )
        for number in range(5)
    ]
    assert known == [True, False, True, True, True]
    assert len(memory) == 4


def test_a_turn_larger_than_the_memory_is_not_kept() -> None:
    memory = TurnMemory(max_tokens=100)
    after(memory, ASKED, SentTurn(range(101), "x", "", ()))
    assert len(memory) == 0


def test_unused_turns_are_forgotten_with_time() -> None:
    clock = Clock()
    memory = TurnMemory(max_age=10, clock=clock)
    after(memory, ASKED, CALLING)
    clock.now = 9
    memory.recall([*ASKED, *spoken(CALLING)])  # used
    clock.now = 18
    assert len(memory.recall([*ASKED, *spoken(CALLING)]).items) == 2
    clock.now = 29
    assert len(memory.recall([*ASKED, *spoken(CALLING)]).items) == 4
    assert len(memory) == 0


def test_the_same_answer_again_takes_no_more_room() -> None:
    memory = TurnMemory()
    for _ in range(3):
        after(memory, ASKED, ANSWER)
    assert len(memory) == 1
    for number in range(3):  # as n choices that call: each has ids of its own
        calls = [dataclasses.replace(CALLS[0], call_id=f"n{number}")]
        after(memory, ASKED, dataclasses.replace(CALLING, token_ids=[number], calls=calls))
    for number in range(3):
        calls = [dataclasses.replace(CALLS[0], call_id=f"n{number}")]
        assert memory.recall([*ASKED, *calls]).items[1:] == (GeneratedTokens((number,)),)


def test_long_conversations_are_read_in_linear_time() -> None:
    calls = [ToolCall(str(i), "f", "{}") for i in range(50_000)]
    many: list[Item] = [*calls, *(UserMessage("x") for _ in range(50_000))]
    assert TurnMemory().recall(many).items == tuple(many)
