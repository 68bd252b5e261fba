"""Bits become the smaller of two lists, and equal bits one object."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ossia.engine import masks as masks_module
from ossia.engine.masks import MASK_WORDS, AllBut, MaskCache, Only, mask_of, only
from ossia.engine.vocabulary import FIRST_SPECIAL, TOKENIZER_SIZE

tokens = st.integers(0, TOKENIZER_SIZE - 1)


def words_of(allowed) -> np.ndarray:
    bits = np.zeros(TOKENIZER_SIZE, dtype=np.uint8)
    bits[list(allowed)] = 1
    return np.packbits(bits, bitorder="little").view(np.int32)


def free_text(*specials: int) -> np.ndarray:
    return words_of([*range(FIRST_SPECIAL), *specials])


@given(st.sets(tokens, min_size=1, max_size=300))
def test_few_allowed_tokens_are_listed(allowed):
    mask = mask_of(words_of(allowed))
    assert isinstance(mask, Only)
    assert mask.tokens.tolist() == mask.ids.tolist() == sorted(allowed)
    assert mask.forced == (min(allowed) if len(allowed) == 1 else None)


@given(st.sets(tokens, max_size=300))
def test_few_forbidden_tokens_are_listed(forbidden):
    mask = mask_of(words_of(set(range(TOKENIZER_SIZE)) - forbidden))
    assert isinstance(mask, AllBut)
    assert mask.ids.tolist() == sorted(forbidden)


def test_free_text_is_recognised_by_what_it_allows():
    def is_free(words) -> bool:
        mask = mask_of(words)
        assert isinstance(mask, AllBut)
        return mask.free_text

    assert is_free(free_text(200007))
    assert is_free(free_text(200002, 200012))
    assert not is_free(free_text()), "a text that cannot end yet is in another state after a token"
    for missing in (0, 31, 32, 100_000, FIRST_SPECIAL - 1):
        allowed = set(range(FIRST_SPECIAL)) - {missing} | {200007}
        assert not is_free(words_of(allowed))


def test_equal_bits_are_one_mask():
    masks = MaskCache(capacity=2)
    first = masks.get(free_text(200007))
    assert masks.get(free_text(200007)) is first
    masks.get(words_of([1]))
    assert masks.get(free_text(200007)) is first
    masks.get(words_of([2]))
    assert masks.get(free_text(200007)) is first, "the one used last is kept"
    assert len(words_of([1])) == MASK_WORDS


def test_a_mask_of_given_tokens():
    assert only(7).forced == 7
    assert only(9, 7).ids.tolist() == [7, 9]
    assert only(9, 7).forced is None


def test_the_bits_of_a_mask_are_kept_or_found_again():
    bits = free_text(200007)
    given = bits.copy()
    kept = MaskCache().get(given)
    given[:] = 0
    assert masks_module.words_of(kept).tolist() == bits.tolist()
    listed = AllBut(kept.ids, True)
    assert masks_module.words_of(listed).tolist() == bits.tolist()
    assert masks_module.words_of(only(9, 70)).tolist() == words_of([9, 70]).tolist()
