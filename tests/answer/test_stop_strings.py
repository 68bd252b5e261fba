from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ossia.answer.stop_strings import StopStrings

_TEXT = st.text("abc", max_size=30)
_STOPS = st.lists(st.text("abc", min_size=1, max_size=4), max_size=3)


def _pieces(text: str, cuts: list[int]) -> list[str]:
    ends = [*sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    return [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def _shown_letter_by_letter(text: str, stop: list[str]) -> str:
    for end in range(1, len(text) + 1):
        begun = [end - len(s) for s in stop if text[:end].endswith(s)]
        if begun:
            return text[: min(begun)]
    return text


@given(_TEXT, _STOPS, st.lists(st.integers(0, 100)))
def test_text_ends_where_the_first_complete_stop_string_begins_for_every_split(
    text: str, stop: list[str], cuts: list[int]
) -> None:
    strings = StopStrings(stop)
    shown = "".join(map(strings.feed, _pieces(text, cuts))) + strings.flush()
    expected = _shown_letter_by_letter(text, stop)
    assert shown == expected
    assert (strings.matched is not None) == (expected != text)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    strings = StopStrings(["###"])
    assert strings.feed("a#") == "a"
    assert strings.feed("#b") == "##b"
    assert strings.feed("##") == ""
    assert strings.flush() == "##"
    assert strings.matched is None


def test_nothing_follows_a_match() -> None:
    strings = StopStrings(["END"])
    assert strings.feed("one EN") == "one "
    assert strings.feed("D two") == ""
    assert strings.matched == "END"
    assert strings.feed("three") == strings.flush() == ""
