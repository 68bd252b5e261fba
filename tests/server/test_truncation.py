"""A conversation that is too long loses its oldest exchanges, and no more than it must."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import CHANNEL, MESSAGE, RETURN, Tokenizer
from ossia.server.truncation import without_oldest
from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    Turn,
    UserMessage,
)

texts = st.text("ab \n", max_size=30)
exchange = st.lists(
    st.one_of(
        st.builds(Reasoning, texts),
        st.builds(AssistantMessage, texts, st.sampled_from(["final", "commentary"])),
        st.builds(lambda text: (ToolCall("c", "f", "{}"), ToolResult("c", "f", text)), texts),
        st.builds(Instructions, texts),
        st.just(GeneratedTokens((CHANNEL, 17196, MESSAGE, 64, RETURN))),  # "a" on final
    ),
    max_size=3,
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Item, ...]:
    items: list[Item] = [Instructions(draw(texts))]
    for number in range(draw(st.integers(0, 5))):
        if number or draw(st.booleans()):
            items.append(UserMessage(draw(texts)))
        for part in draw(exchange):
            items += part if isinstance(part, tuple) else [part]
    return tuple(items)


def cuts(turn: Turn) -> list[Turn]:
    """The turn without its oldest exchange, without its two oldest, and so on."""
    found = [turn]
    starts = [i for i, item in enumerate(turn.items) if isinstance(item, UserMessage)]
    for start in starts[1:]:
        kept = [item for item in turn.items[:start] if isinstance(item, Instructions)]
        found.append(Turn((*kept, *turn.items[start:])))
    return found


@settings(max_examples=200)
@given(conversations(), st.integers(60, 200))
def test_no_more_is_left_out_than_has_to_be(
    tokenizer: Tokenizer, items: tuple[Item, ...], limit: int
) -> None:
    turn = Turn(items)
    possible = cuts(turn)
    fitting = [cut for cut in possible if len(render_prompt(cut, tokenizer)) <= limit]
    expected = fitting[0] if fitting else possible[-1]
    assert without_oldest(turn, tokenizer, limit) == expected


LONG = Turn(
    (
        AssistantMessage("Welcome."),
        UserMessage("one"),
        Instructions("Be brief."),
        Reasoning("Hm."),
        ToolCall("c", "f", "{}"),
        ToolResult("c", "f", "result"),
        AssistantMessage("First."),
        UserMessage("two"),
        AssistantMessage("Second."),
        UserMessage("three"),
    )
)


def test_what_fits_stays_as_it_is(tokenizer: Tokenizer) -> None:
    fits = len(render_prompt(LONG, tokenizer))
    assert without_oldest(LONG, tokenizer, fits) is LONG
    assert without_oldest(LONG, tokenizer, fits - 1).items == (LONG.items[2], *LONG.items[7:])


@pytest.mark.parametrize("items", [LONG.items, (Instructions("a"), UserMessage("b")), ()])
def test_instructions_and_the_last_exchange_always_stay(
    tokenizer: Tokenizer, items: tuple[Item, ...]
) -> None:
    cut = without_oldest(Turn(items), tokenizer, 0)
    assert cut.items == (items if len(items) < 3 else (LONG.items[2], UserMessage("three")))
