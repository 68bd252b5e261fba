"""Sampling agrees with Hugging Face's logit processing and with the distributions it promises."""

import math

import numpy as np
import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ossia.engine.sampler import NOT_FINITE, sample
from ossia.engine.sampling_state import SamplingState
from ossia.sampling import SamplingParams

VOCAB = 1000  # not a multiple of the sampler's block


def state(prompt=(), generated=(), seed=0, stop=(), **params) -> SamplingState:
    made = SamplingState(SamplingParams(**params), seed=seed, prompt=prompt, stop_token_ids=stop)
    for token in generated:
        made.record(token)
    return made


def logits_of(rows: int, vocab: int = VOCAB, scale: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def tokens_at(logits: torch.Tensor, draws: int, **params) -> np.ndarray:
    """Tokens of `draws` requests with seeds of their own, all with the same logits."""
    states = [state(seed=seed, **params) for seed in range(draws)]
    return np.array([s.token for s in sample(logits.expand(draws, -1), states)])


def chi_square(tokens: np.ndarray, probabilities: np.ndarray) -> float:
    """Standardised: about normal with mean 0 and deviation 1 if the tokens follow them."""
    expected = probabilities * len(tokens)
    frequent = expected >= 5
    observed = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    seen = np.append(observed[frequent], observed[~frequent].sum())
    wanted = np.append(expected[frequent], expected[~frequent].sum())
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    degrees = len(wanted) - 1
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return 0.0 if degrees == 0 else (statistic - degrees) / math.sqrt(2 * degrees)


WARPERS = [
    ({}, []),
    ({"temperature": 0.7}, [TemperatureLogitsWarper(0.7)]),
    ({"temperature": 2.5}, [TemperatureLogitsWarper(2.5)]),
    ({"top_k": 1}, [TopKLogitsWarper(1)]),
    ({"top_k": 7}, [TopKLogitsWarper(7)]),
    ({"top_k": 300}, [TopKLogitsWarper(300)]),
    ({"top_k": 5000}, []),
    ({"top_p": 0.9}, [TopPLogitsWarper(0.9)]),
    ({"top_p": 0.3}, [TopPLogitsWarper(0.3)]),
    ({"top_p": 0.01}, [TopPLogitsWarper(0.01)]),
    ({"min_p": 0.05}, [MinPLogitsWarper(0.05)]),
    (
        {"temperature": 1.3, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
        [
            TemperatureLogitsWarper(1.3),
            TopKLogitsWarper(40),
            TopPLogitsWarper(0.8),
            MinPLogitsWarper(0.02),
        ],
    ),
]


@pytest.mark.parametrize(("params", "warpers"), WARPERS, ids=[str(p) for p, _ in WARPERS])
def test_tokens_follow_the_distribution_of_the_hugging_face_warpers(params, warpers):
    logits = logits_of(1)
    warped = LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.clone())
    probabilities = torch.softmax(warped[0].double(), -1).numpy()
    tokens = tokens_at(logits, 2500, **params)
    assert probabilities[tokens].min() > 0, "a token outside the filter was sampled"
    assert chi_square(tokens, probabilities) < 4.5


def test_the_chi_square_test_can_fail():
    logits = logits_of(1)
    wrong = torch.softmax(logits[0].double() / 1.1, -1).numpy()
    assert chi_square(tokens_at(logits, 2500), wrong) > 4.5


def test_successive_positions_of_one_seed_follow_the_distribution():
    logits = logits_of(1, vocab=20, scale=1.0)
    one = state(seed=1234)
    tokens = []
    for _ in range(2500):
        tokens.append(sample(logits, [one])[0].token)
        one.record(tokens[-1])
    probabilities = torch.softmax(logits[0].double(), -1).numpy()
    assert chi_square(np.array(tokens), probabilities) < 4.5
    pairs = np.array(tokens[:-1]) * 20 + np.array(tokens[1:])
    assert chi_square(pairs, np.outer(probabilities, probabilities).ravel()) < 4.5


def test_greedy_takes_the_first_largest():
    logits = logits_of(3)
    logits[1, [5, 700]] = 99.0
    states = [state(temperature=0.0), state(temperature=0.0), state(temperature=1e-9)]
    tokens = [s.token for s in sample(logits, states)]
    assert tokens == [int(logits[0].argmax()), 5, int(logits[2].argmax())]


def test_a_tiny_temperature_is_not_an_overflow():
    logits = logits_of(1) * 1e4
    assert tokens_at(logits, 3, temperature=2e-5).tolist() == [int(logits.argmax())] * 3


def test_a_seed_gives_the_same_tokens_whatever_else_is_in_the_batch():
    logits = logits_of(64)
    kinds = [{}, {"top_p": 0.9}, {"top_k": 20}, {"temperature": 0.0}, {"presence_penalty": 1.0}]

    def make(i):
        return state(seed=i % 7, generated=[1, 2, i], **kinds[i % len(kinds)])

    together = [s.token for s in sample(logits, [make(i) for i in range(64)])]
    alone = [sample(logits[i : i + 1], [make(i)])[0].token for i in range(64)]
    assert together == alone


def test_other_seeds_give_other_tokens():
    logits = logits_of(1, scale=1.0)
    assert len(set(tokens_at(logits, 200).tolist())) > 20


def test_penalties_agree_with_hugging_face_and_with_their_formula():
    logits = logits_of(1)
    prompt, answer = [3, 4, 4, 900], [4, 5, 5]
    hf = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([prompt + answer]), logits.clone())[0]
    hf[4] -= 0.5 + 0.25
    hf[5] -= 0.5 + 2 * 0.25
    hf[7] += 3.0
    params = {
        "repetition_penalty": 1.7,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "logit_bias": {7: 3.0},
    }
    states = [state(prompt, answer, seed=seed, **params) for seed in range(2500)]
    tokens = np.array([s.token for s in sample(logits.expand(2500, -1), states)])
    assert chi_square(tokens, torch.softmax(hf.double(), -1).numpy()) < 4.5


def test_penalties_can_be_seen_in_greedy_choices():
    logits = torch.zeros(1, VOCAB)
    logits[0, :4] = torch.tensor([5.0, 4.0, 3.0, -1.0])

    def greedy(**kw):
        return sample(logits, [state(temperature=0.0, **kw)])[0].token

    assert greedy() == 0
    assert greedy(prompt=[0], presence_penalty=2.0) == 0, "the prompt does not count"
    assert greedy(generated=[0], presence_penalty=1.5) == 1
    assert greedy(generated=[0, 0, 1], frequency_penalty=0.9) == 0, "5 - 1.8 against 4 - 0.9"
    assert greedy(generated=[0, 0, 0, 1], frequency_penalty=0.9) == 1
    assert greedy(prompt=[0, 0], repetition_penalty=1.5) == 1
    assert greedy(logit_bias={2: 2.5}) == 2
    assert greedy(logit_bias={0: -100.0, 1: -100.0}) == 2


def test_stop_tokens_are_not_sampled_before_min_tokens():
    logits = torch.zeros(1, VOCAB)
    logits[0, 9] = 50.0
    early = state(generated=[1, 2], min_tokens=3, stop=(9,))
    late = state(generated=[1, 2, 3], min_tokens=3, stop=(9,))
    first, second = sample(logits.expand(2, -1), [early, late])
    assert first.token != 9
    assert second.token == 9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("params", [{}, {"temperature": 0.0}, {"top_p": 0.5, "logprobs": 2}])
def test_a_row_that_is_not_finite_fails_alone(bad, params):
    logits = logits_of(3)
    logits[1, 77] = bad
    want = [s.token for s in sample(logits_of(3), [state(seed=i, **params) for i in range(3)])]
    got = sample(logits, [state(seed=i, **params) for i in range(3)])
    assert [s.error for s in got] == [None, NOT_FINITE, None]
    assert (got[0].token, got[2].token) == (want[0], want[2])


def test_ids_past_the_vocabulary_are_never_sampled():
    logits = torch.zeros(2, 201216)
    logits[:, 201088:] = 100.0
    greedy, drawn = sample(logits, [state(temperature=0.0), state()])
    assert greedy.token == 0
    assert drawn.token < 201088


def test_logprobs_are_of_the_raw_distribution():
    logits = logits_of(2)
    params = {"temperature": 0.3, "top_k": 5, "presence_penalty": 1.0, "logprobs": 3}
    got = sample(logits, [state(generated=[1], **params), state(logprobs=0)])
    want = torch.log_softmax(logits.double(), -1)
    first = got[0].logprobs
    assert first is not None
    assert first.logprob == pytest.approx(float(want[0, got[0].token]), abs=1e-5)
    values, ids = want[0].topk(3)
    assert [i for i, _ in first.top] == ids.tolist()
    assert [p for _, p in first.top] == pytest.approx(values.tolist(), abs=1e-5)
    assert got[1].logprobs is not None
    assert got[1].logprobs.top == []


def test_a_full_vocabulary_works_with_every_filter():
    logits = logits_of(1, vocab=201088)
    hf = TopPLogitsWarper(0.95)(torch.zeros(1, 1), TopKLogitsWarper(5000)(None, logits.clone()))
    tokens = tokens_at(logits, 200, top_k=5000, top_p=0.95)
    assert torch.isfinite(hf[0, torch.from_numpy(tokens)]).all()
