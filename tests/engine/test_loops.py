"""Loops are found soon after they began, and text that only looks like one is left alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.engine.loops import (
    EVERY,
    FEW_DIFFERENT,
    LEAST,
    LEAST_FEW,
    LEAST_SHORT,
    MAX_PERIOD,
    REPETITIONS,
    SHORT_PERIOD,
    LoopDetector,
    needed,
)


def found_after(tokens: list[int], detector: LoopDetector | None = None) -> int | None:
    """How many tokens had been read when a loop was reported."""
    detector = detector or LoopDetector()
    return next((i + 1 for i, token in enumerate(tokens) if detector.add(token)), None)


def text(source: random.Random, length: int) -> list[int]:
    return [source.randrange(200_000) for _ in range(length)]


periods = st.integers(1, MAX_PERIOD)


@given(periods, st.integers(1, 4), st.integers())
def test_a_patient_detector_waits_for_as_many_times_the_tokens(period, patience, seed):
    block = text(random.Random(seed), period)
    least = patience * needed(period, len(set(block)))
    found = found_after(block * (least // period + 60), LoopDetector(patience))
    assert found is not None
    assert least <= found <= least + EVERY


@given(periods, st.integers(0, 700), st.integers())
def test_a_loop_of_any_period_is_found_soon_after_any_beginning(period, before, seed):
    source = random.Random(seed)
    block = text(source, period)
    beginning = text(source, before)
    length = needed(period, len(set(block)))
    found = found_after(beginning + (block * (length + EVERY))[: length + EVERY])
    assert found is not None
    assert before + length - period < found <= before + length + EVERY


@given(periods, st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 300))
def test_a_block_that_repeats_itself_inside_is_found_as_well(half, pieces, before):
    source = random.Random(half)
    kinds = [text(source, max(1, half // len(pieces))) for _ in range(6)]
    block = [token for piece in pieces for token in kinds[piece]][:MAX_PERIOD]
    length = max(LEAST_FEW, REPETITIONS * len(block)) + EVERY
    found = found_after(text(source, before) + (block * length)[:length])
    assert found is not None
    assert found >= before


@given(st.integers(2, 200_000), st.integers())
def test_random_text_is_no_loop(different, seed):
    source = random.Random(seed)
    assert found_after([source.randrange(different) for _ in range(4000)]) is None


@given(st.integers(2, 100), st.integers(0, 9), st.integers())
def test_lines_in_which_one_token_differs_are_no_loop(length, place, seed):
    source = random.Random(seed)
    line = text(source, length)
    lines: list[int] = []
    for number in range(1500 // length):
        line[place % length] = 1000 + number
        lines += line
    assert found_after(lines) is None


def test_a_refrain_is_no_loop():
    source = random.Random(1)
    refrain = text(source, 60)
    song = [token for _ in range(10) for token in [*text(source, 90), *refrain]]
    assert found_after(song) is None
    assert found_after(refrain * (REPETITIONS - 1)) is None


@pytest.mark.parametrize("side", [3, 13, 22])
def test_a_grid_of_zeros_is_no_loop(side):
    row = [15, 220] * side + [198]
    assert found_after([1, 2, 3, *row * side, 4, 5, 6] * 3) is None


@pytest.mark.parametrize("rows", [5, 20])
def test_equal_short_rows_of_a_matrix_are_no_loop(rows):
    row = [91, 15, 11, 16, 11, 17, 11, 18, 93, 198]
    assert len(row) < SHORT_PERIOD
    assert found_after([*row * rows, 7, 8, 9]) is None


def test_one_token_without_end_is_a_loop():
    found = found_after([0] * 5000)
    assert found is not None
    assert LEAST_FEW <= found <= LEAST_FEW + EVERY


def test_the_end_of_a_text_begins_another():
    block = text(random.Random(2), 50)
    detector = LoopDetector()
    for _ in range(8):
        assert found_after(block * 3 + block[:30], detector) is None
        detector.clear()


def test_less_is_needed_of_longer_and_richer_blocks():
    assert needed(1, 1) == LEAST_FEW > needed(SHORT_PERIOD - 1, 9) == LEAST_SHORT
    assert LEAST_SHORT > needed(SHORT_PERIOD, FEW_DIFFERENT + 1) == LEAST
    assert needed(MAX_PERIOD, 100) == REPETITIONS * MAX_PERIOD
