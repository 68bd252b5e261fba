"""A stored conversation goes on with the very items of then."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ossia.server.responses.transcript import decode_items, encode_items
from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

texts = st.text(st.characters(codec="utf-8"), max_size=20)
channels = st.sampled_from(["final", "commentary"])
items: st.SearchStrategy[Item] = st.one_of(
    st.builds(Instructions, texts),
    st.builds(UserMessage, texts),
    st.builds(Reasoning, texts),
    st.builds(AssistantMessage, texts, channels),
    st.builds(ToolCall, texts, texts, texts, st.booleans()),
    st.builds(ToolResult, texts, texts, texts, st.booleans()),
    st.builds(GeneratedTokens, st.lists(st.integers(0, 2**32 - 1)).map(tuple)),
)


@given(st.lists(items))
def test_items_come_back_as_they_were(given: list[Item]) -> None:
    assert decode_items(encode_items(given)) == given


def test_no_bytes_are_no_items() -> None:
    assert decode_items(b"") == []


def test_the_bytes_of_then_are_read_in_later_versions() -> None:
    stored = bytes.fromhex("93 92a475736572a26869 92a6746f6b656e73c4080100000003100300") + bytes(
        [0x95, 0xA4, *b"call", 0xA1, *b"c", 0xA1, *b"f", 0xA2, *b"{}", 0xC3]
    )
    assert decode_items(stored) == [
        UserMessage("hi"),
        GeneratedTokens((1, 200707)),
        ToolCall("c", "f", "{}", builtin=True),
    ]
