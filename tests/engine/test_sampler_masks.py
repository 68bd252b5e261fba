"""What a mask forbids is never sampled, what it allows as before, whatever form the mask has."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ossia.engine.masks import AllBut, Nothing, only
from ossia.engine.sampler import NOT_FINITE, NOTHING_ALLOWED, sample
from ossia.engine.sampling_state import SamplingState
from ossia.sampling import SamplingParams

VOCAB = 1024


def state(generated=(), seed=0, stop=(), **params) -> SamplingState:
    made = SamplingState(SamplingParams(**params), seed=seed, prompt=(), stop_token_ids=stop)
    for token in generated:
        made.record(token)
    return made


def logits_of(rows: int, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * scale


def all_but(*tokens: int) -> AllBut:
    return AllBut(torch.tensor(sorted(tokens), dtype=torch.int64), False)


def allowing(tokens) -> AllBut:
    """The same as `only`, in the other form."""
    return all_but(*set(range(VOCAB)) - set(tokens))


KINDS = [
    {},
    {"temperature": 0.0},
    {"temperature": 3.0, "top_p": 0.7},
    {"top_k": 5},
    {"top_k": 900, "min_p": 0.01},
    {"presence_penalty": 1.0, "logit_bias": {3: 50.0, 999: 50.0}},
    {"logprobs": 2},
    {"min_tokens": 9, "logprobs": 0, "repetition_penalty": 1.3},
]
kinds = st.sampled_from(KINDS)


@given(kinds, st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=300), st.integers(0, 99))
def test_both_forms_of_a_mask_give_the_same_token(kind, allowed, seed):
    logits = logits_of(1, seed=seed)
    [few] = sample(logits.clone(), [state([7, 7, 8], seed, (5, 6), **kind)], [only(*allowed)])
    [most] = sample(logits.clone(), [state([7, 7, 8], seed, (5, 6), **kind)], [allowing(allowed)])
    assert few.token in allowed
    if allowed - {5, 6}:
        assert few == most


def make_masks(rows: int) -> list:
    shared, long = all_but(*range(900, 1000)), only(*range(0, 700, 2))
    choices = [None, shared, only(4), long, only(9, 30, 1000), all_but(0, 1), shared, shared]
    return [choices[i % len(choices)] for i in range(rows)]


def test_a_seed_gives_the_same_token_whatever_else_is_in_the_batch():
    rows = 61
    logits, masks = logits_of(rows), make_masks(rows)

    def states() -> list[SamplingState]:
        return [state([1, i], i % 7, (3,), **KINDS[(i * 5) % len(KINDS)]) for i in range(rows)]

    together = sample(logits.clone(), states(), masks)
    alone = [
        sample(logits[i : i + 1].clone(), [own], [mask])[0]
        for i, (own, mask) in enumerate(zip(states(), masks, strict=True))
    ]
    assert together == alone
    backwards = sample(logits.flip(0).clone(), states()[::-1], masks[::-1])
    assert backwards[::-1] == together


def test_rows_without_a_mask_are_sampled_as_ever():
    logits, masks = logits_of(24), make_masks(24)
    plain = sample(logits.clone(), [state(seed=i) for i in range(24)])
    mixed = sample(logits.clone(), [state(seed=i) for i in range(24)], masks)
    same = [i for i, mask in enumerate(masks) if mask is None]
    assert [mixed[i] for i in same] == [plain[i] for i in same]


def test_a_mask_of_one_token_needs_no_logits():
    logits = torch.full((1, VOCAB), math.nan)
    assert sample(logits, [state()], [only(4)])[0].token == 4
    assert sample(logits, [state(logprobs=0)], [only(4)])[0].error == NOT_FINITE


def test_logprobs_are_of_the_distribution_before_the_mask():
    logits = logits_of(3)
    want = torch.log_softmax(logits.double(), -1)
    masks = [only(4), only(*range(300)), all_but(*range(500))]
    bias = {"logit_bias": {600: 20.0}}
    states = [state(logprobs=2, **bias) for _ in masks]
    for row, found in enumerate(sample(logits, states, masks)):
        assert found.logprobs is not None
        assert found.logprobs.logprob == pytest.approx(float(want[row, found.token]), abs=1e-5)
        assert [i for i, _ in found.logprobs.top] == want[row].topk(2).indices.tolist()


@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"logprobs": 1}, {"top_p": 0.5}])
def test_no_finite_bias_beats_a_mask(params):
    bias = {"logit_bias": {1: 100.0, 2: -100.0, 3: -100.0}}
    for mask in (only(2, 3), allowing({2, 3})):
        [found] = sample(logits_of(1), [state(**bias, **params)], [mask])
        assert found.token in (2, 3)


def test_min_tokens_hold_back_stops_unless_nothing_else_is_allowed():
    early = {"min_tokens": 5}
    logits = logits_of(1)
    logits[0, [5, 6]] = 90.0
    for mask in (only(5, 6, 7), allowing({5, 6, 7})):
        [found] = sample(logits.clone(), [state(stop=(5, 6), **early)], [mask])
        assert found.token == 7
    [found] = sample(logits.clone(), [state(stop=(5, 6), **early)], [only(5, 6)])
    assert found.token in (5, 6)
    [found] = sample(logits.clone(), [state(stop=(5, 6), **early)], [only(6)])
    assert found.token == 6


def test_a_mask_that_allows_nothing_fails_its_row_alone():
    masks = [Nothing("The grammar broke."), only(5, 6), all_but(*range(VOCAB)), None]
    broken, good, empty, free = sample(logits_of(4), [state() for _ in masks], masks)
    assert (broken.token, broken.error) == (-1, "The grammar broke.")
    assert good.error is None
    assert empty.error == NOTHING_ALLOWED
    assert free.error is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_fails_alone_under_a_mask(bad):
    logits = logits_of(3)
    logits[1, 6] = bad
    masks = [only(5, 6), only(5, 6), all_but(1)]
    assert [s.error for s in sample(logits, [state() for _ in masks], masks)] == [
        None,
        NOT_FINITE,
        None,
    ]
