"""Seeds and token counts of one sequence."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ossia.engine.randomness import derive_seed, uniform
from ossia.engine.sampling_state import SamplingState, TokenCounts
from ossia.sampling import SamplingParams

tokens = st.lists(st.integers(0, 300), max_size=400)


@given(prompt=tokens, answer=tokens)
def test_counts_are_those_of_the_answer_and_ids_those_of_both(prompt, answer):
    counts = TokenCounts(prompt)
    for token in answer:
        counts.add(token)
    found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert len(found) == len(counts.ids), "an id is listed twice"
    wanted = Counter(answer)
    assert found == {token: float(wanted[token]) for token in {*prompt, *answer}}


def test_prompt_tokens_are_counted_for_repetition_only():
    def ids(**params):
        state = SamplingState(SamplingParams(**params), seed=0, prompt=[1, 2], stop_token_ids=())
        state.record(7)
        return None if state.counts is None else sorted(state.counts.ids.tolist())

    assert ids() is None
    assert ids(presence_penalty=0.1) == [7]
    assert ids(frequency_penalty=-0.1) == [7]
    assert ids(repetition_penalty=1.1) == [1, 2, 7]


def test_draws_are_uniform_and_independent_between_seeds_and_positions():
    draws = np.array([[uniform(seed, position) for position in range(300)] for seed in range(300)])
    assert 0.0 <= draws.min() <= draws.max() < 1.0
    for bins in (10, 97):
        counts = np.bincount((draws.ravel() * bins).astype(int), minlength=bins)
        expected = draws.size / bins
        chi_square = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi_square - (bins - 1)) < 4.5 * np.sqrt(2 * (bins - 1))
    for a, b in ((draws[:, :-1], draws[:, 1:]), (draws[:-1], draws[1:])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 4.5 / np.sqrt(a.size)
    # A sequence started at a neighbouring seed is no shifted copy.
    assert not np.isin(draws[1], draws[0]).any()


def test_a_draw_depends_on_seed_and_position_alone():
    assert uniform(5, 3) == uniform(5, 3) == uniform(5 + 2**64, 3)
    assert len({derive_seed(a, b) for a in range(50) for b in range(50)}) == 2500
