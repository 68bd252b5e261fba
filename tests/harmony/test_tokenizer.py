from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.harmony.tokenizer import FIRST_SPECIAL, START, VOCAB_SIZE, Tokenizer, Utf8Decoder

SPELLINGS = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>"),
    *("<|call|>", "<|endoftext|>", "<|startoftext|>", "<|endofprompt|>", "<|untrusted|>"),
    *("<|reserved_200000|>", "<|reserved_201087|>", "<|reserved_201088|>", "<|", "|>"),
)
texts = st.lists(st.sampled_from(SPELLINGS) | st.text(max_size=20), max_size=8).map("".join)
any_text = st.text(st.characters(), max_size=30)  # lone surrogates too


def test_the_embedded_vocabulary_spells_a_token_past_the_embedding(tokenizer: Tokenizer) -> None:
    """Why `encode` allows no special token: oss-harmony knows one that the model has no row for."""
    assert tokenizer.harmony.encode("<|reserved_201088|>", allowed_special="all") == [VOCAB_SIZE]


@given(text=texts)
def test_text_never_becomes_a_special_token(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= token < FIRST_SPECIAL for token in ids)
    assert tokenizer.decode(ids) == text


@given(text=any_text)
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    expected = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert tokenizer.decode(tokenizer.encode(text)) == joined
    if not any("\ud800" <= char <= "\udbff" for char in text):  # nothing that could be a pair
        assert joined == expected


def test_ids_that_mean_nothing_decode_to_nothing(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([-1, VOCAB_SIZE, VOCAB_SIZE + 1, 2**70]) == ""
    assert not tokenizer.is_special(VOCAB_SIZE)
    assert not tokenizer.is_special(-1)


def test_every_id_of_the_vocabulary_decodes(tokenizer: Tokenizer) -> None:
    assert all(tokenizer.token_bytes(token) for token in range(VOCAB_SIZE))


def test_special_tokens_are_shown_as_their_spelling(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([START, *tokenizer.encode("user")]) == "<|start|>user"
    assert tokenizer.is_special(START)
    assert not tokenizer.is_special(FIRST_SPECIAL - 1)


@given(ids=st.lists(st.integers(-5, VOCAB_SIZE + 5), max_size=20))
def test_any_ids_decode(tokenizer: Tokenizer, ids: list[int]) -> None:
    text = tokenizer.decode(ids)
    assert tokenizer.decode_bytes(ids).decode("utf-8", "replace") == text


@given(data=st.binary(max_size=30) | st.text().map(str.encode), cuts=st.lists(st.integers(0, 30)))
def test_incremental_decoding_does_not_depend_on_the_split(data: bytes, cuts: list[int]) -> None:
    decoder = Utf8Decoder()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [decoder.feed(data[a:b]) for a, b in pairwise(edges)]
    assert "".join([*pieces, decoder.flush()]) == data.decode("utf-8", "replace")


def test_a_split_character_is_held_back_until_complete() -> None:
    decoder = Utf8Decoder()
    data = "a😀".encode()
    assert decoder.feed(data[:3]) == "a"
    assert decoder.pending
    assert decoder.feed(data[3:]) == "😀"
    assert not decoder.pending
    assert decoder.flush() == ""


def test_an_incomplete_character_at_the_end_is_replaced_and_the_decoder_starts_afresh() -> None:
    decoder = Utf8Decoder()
    assert decoder.feed("é".encode()[:1]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.feed(b"b") == "b"


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ufeff", "a\r\nb"])
def test_small_texts_come_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
