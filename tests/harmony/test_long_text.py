from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.harmony import long_text
from ossia.harmony.long_text import LONG_PIECE, LongTextEncoder, merge, needs_care
from ossia.harmony.tokenizer import FIRST_SPECIAL, Tokenizer


@pytest.fixture(scope="module")
def ranks(tokenizer: Tokenizer) -> dict[bytes, int]:
    return {tokenizer.token_bytes(token): token for token in range(FIRST_SPECIAL)}


def reference(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.harmony._inner.encode(text, [])


# What the rules of the split are about: cases of letters, marks, digits, blanks, signs, suffixes.
FRAGMENTS = (
    *(
        "a",
        "B",
        "漢",
        "あ",
        "é",
        "É",
        "ǅ",
        "ʰ",
        "ก",
        "ี",
        "\u0301",
        "s",
        "S",
        "\u017f",
        "ll",
        "don't",
    ),
    *(
        "'",
        "'s",
        "'S",
        "'\u017f",
        "'LL",
        "0",
        "123",
        "٣",
        "½",
        "Ⅷ",
        "!",
        "/",
        "_",
        "😀",
        "\u200d",
        "<|",
    ),
    *(" ", "  ", "\t", "\n", "\r\n", "\u2003", "\x85", "\xa0", "\x1c", "\u2028", "Straße"),
)
texts = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join),
    st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3).flatmap(
        lambda few: st.lists(st.sampled_from(few), max_size=40).map("".join)
    ),
    st.text(st.characters(max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn"))),
)


@given(text=texts)
def test_tokens_are_those_of_the_vocabulary_wherever_long_begins(
    tokenizer: Tokenizer, ranks: dict[bytes, int], text: str
) -> None:
    encoder = LongTextEncoder(ranks, lambda part: reference(tokenizer, part))
    for limit in (0, 1, 3):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(long_text, "LONG_PIECE", limit)
            assert encoder.encode(text) == reference(tokenizer, text)


@pytest.mark.parametrize(
    "unit", [" ", "a", "漢字", "\n", " \t", "-", "😀", "Aa", "ab c", "ก", "あA"]
)
def test_tokens_of_long_runs_are_those_of_the_vocabulary(tokenizer: Tokenizer, unit: str) -> None:
    text = "Hello,  " + unit * 3000 + " it's 12345 " + unit * 600 + "!"
    assert tokenizer.encode(text) == reference(tokenizer, text)


@given(text=st.text(st.sampled_from("abcdeE é"), min_size=1, max_size=60).map(str.strip))
def test_merging_one_piece_agrees_with_the_vocabulary(
    tokenizer: Tokenizer, ranks: dict[bytes, int], text: str
) -> None:
    word = text.replace(" ", "").lower()
    assert merge(word.encode(), ranks) == reference(tokenizer, word)


@pytest.mark.parametrize("unit", [" ", "a", "漢", "\n"])
def test_time_grows_linearly_with_a_run(tokenizer: Tokenizer, unit: str) -> None:
    """Quadratic time would take 25 times as long for the longer text."""
    tokenizer.encode(unit * LONG_PIECE * 2)  # builds the table once
    seconds = []
    for length in (20_000, 100_000):
        start = time.process_time()
        tokenizer.encode(unit * length)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 12 * seconds[0] + 0.1


def test_ordinary_prose_needs_no_care() -> None:
    assert not needs_care("The quick brown fox. " * 10_000)
    assert not needs_care("x" * LONG_PIECE)
    assert needs_care("x" * (LONG_PIECE + 1))
    assert needs_care("a" + " \t" * LONG_PIECE)
    assert needs_care("漢字、" * LONG_PIECE)
