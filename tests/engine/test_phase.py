"""Phases are counted, and closed when they have had enough."""

import random

import pytest

from ossia.engine.loops import EVERY, LEAST
from ossia.engine.messages import PhaseLimit
from ossia.engine.phase import PhaseWatch

OPENING, CLOSING = [1, 2, 3], 9


def watch(**options) -> PhaseWatch:
    return PhaseWatch(PhaseLimit(opening=OPENING, closing=CLOSING, then="", **options))


def first_cut(watched: PhaseWatch, tokens: list[int]) -> tuple[int, str] | None:
    for i, token in enumerate(tokens):
        cut = watched.record(token)
        if cut is not None:
            return i, cut
    return None


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_a_phase_is_cut_at_its_last_allowed_token(limit):
    assert first_cut(watch(max_tokens=limit), [*OPENING, *[50] * 9]) == (2 + limit, "max_tokens")


def test_a_phase_of_no_tokens_is_cut_when_it_opens():
    assert first_cut(watch(max_tokens=0), [4, 1, *OPENING, 50]) == (4, "max_tokens")


def test_all_phases_count_together_and_what_is_between_does_not():
    part = [*OPENING, 50, 51, 52, CLOSING, 60, 61, 62, 63]
    watched = watch(max_tokens=8)
    assert first_cut(watched, part * 3) == (2 * len(part) + 4, "max_tokens")
    assert watched.tokens == 8


def test_a_phase_that_opens_with_nothing_left_is_cut_at_once():
    tokens = [*OPENING, 50, CLOSING, *OPENING]
    watched = watch(max_tokens=2)
    assert first_cut(watched, tokens) is None
    assert watched.record(50) == "max_tokens"


def test_the_opening_is_found_after_a_false_start():
    assert first_cut(watch(max_tokens=1), [1, 2, 1, 2, 2, 1, 1, 2, 3, 50]) == (9, "max_tokens")


def test_without_a_limit_only_loops_are_cut():
    block = random.Random(0).sample(range(100, 1000), 40)
    tokens = [*OPENING, *block * 20]
    cut = first_cut(watch(), tokens)
    assert cut is not None
    assert cut[1] == "loop"
    assert LEAST <= cut[0] <= LEAST + EVERY + 3
    assert first_cut(watch(stop_loops=False), tokens) is None


def test_a_loop_outside_a_phase_is_not_watched():
    block = random.Random(0).sample(range(100, 1000), 40)
    assert first_cut(watch(), [*OPENING, 50, CLOSING, *block * 20]) is None
