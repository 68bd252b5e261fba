"""Sampling on the GPU takes the tokens of the CPU, for the whole vocabulary and every parameter."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ossia.engine.device_sampler import DeviceSampler
from ossia.engine.masks import MASK_WORDS, MaskCache, Nothing, only
from ossia.engine.randomness import uniform
from ossia.engine.sampler import LOG2_E, NOT_FINITE, sample
from ossia.engine.sampling_state import SamplingState
from ossia.engine.vocabulary import TOKENIZER_SIZE
from ossia.sampling import SamplingParams

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]
CUDA = torch.device("cuda")

PLAIN = [{}, {"temperature": 0.0}, {"temperature": 0.3}, {"temperature": 2.0}]
FILTERS = [
    {"top_k": 1},
    {"top_k": 50},
    {"top_k": 90, "temperature": 0.2},
    {"top_k": 5000, "temperature": 2.0},
    {"top_k": 150_000},
    {"top_p": 0.95},
    {"top_p": 0.3, "temperature": 1.7},
    {"top_p": 0.9999},
    {"top_p": 0.9, "temperature": 100.0},
    {"top_p": 0.9, "temperature": 1e6},  # too flat for the list
    {"min_p": 0.05},
    {"top_k": 40, "top_p": 0.8, "min_p": 0.02},
    {"top_k": 5000, "top_p": 0.95, "temperature": 1.3},
    {},
    {"temperature": 0.0},
]
OTHERS = [
    {"logprobs": 5},
    {"temperature": 0.0, "logprobs": 0, "presence_penalty": 1.0},
    {"repetition_penalty": 1.4, "frequency_penalty": 0.3, "logit_bias": {7: 30.0, 9: 31.0}},
    {"min_tokens": 9, "temperature": 0.0},
]


def state(seed: int, params: dict, mask=None, generated=(7, 7, 11)) -> SamplingState:
    follower = None if mask is None else SimpleNamespace(mask=mask, record=lambda token: None)
    made = SamplingState(
        SamplingParams(**params),
        seed=seed,
        prompt=range(0, 3000, 3),
        stop_token_ids=(5, 6),
        follower=follower,
    )
    for token in generated:
        made.record(token)
    return made


def logits_of(rows: int, seed: int, scale: float = 3.0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, TOKENIZER_SIZE, generator=rng) * scale


def masks_of(rows: int) -> list:
    cache = MaskCache()
    rng = np.random.default_rng(3)

    def mask(count: int):
        bits = np.zeros(MASK_WORDS * 32, dtype=np.uint8)
        bits[rng.permutation(TOKENIZER_SIZE)[:count]] = 1
        return cache.get(np.packbits(bits, bitorder="little").view(np.int32))

    kinds = [None, mask(3), mask(900), mask(120_000), mask(TOKENIZER_SIZE - 9), only(5), only(5, 6)]
    return [kinds[i % 7] for i in range(rows)]


def run(sampler: DeviceSampler, logits: torch.Tensor, states: list[SamplingState]):
    count = len(states)
    last = torch.full((count + 7,), -1, dtype=torch.int32, device=CUDA)
    slots = torch.randperm(count + 7)[:count].int().to(CUDA)
    results = sampler.launch(logits.to(CUDA), states, slots, last).results()
    fed_back = last[slots.long()].tolist()
    for found, token in zip(results, fed_back, strict=True):
        assert token == found.token or found.error
        assert 0 <= token < TOKENIZER_SIZE
    return results


def weights_of(x: torch.Tensor, params: SamplingParams) -> torch.Tensor:
    """What the filters keep of allowed logits x [vocab], float64."""
    w = torch.exp2((x - x.max()).double() * (LOG2_E / params.temperature))
    least = -math.inf
    if params.top_k:
        least = float(x.topk(params.top_k).values[-1])
    if params.top_p < 1.0:
        ordered, order = x.sort(descending=True)
        mass = torch.where(ordered >= least, w[order], 0.0).cumsum(0)
        reached = int(torch.searchsorted(mass, params.top_p * float(mass[-1])))
        least = max(least, float(ordered[reached]))
    return torch.where((x >= least) & (w >= params.min_p - 1e-7), w, 0.0)


def check_draw(x: torch.Tensor, one: SamplingState, token: int) -> None:
    """The draw falls into the token's share of the mass, to within what rounding may do."""
    w = weights_of(x, one.params)
    sums = w.cumsum(0) / w.sum()
    draw = uniform(one.seed, one.generated)
    assert w[token] > 0
    assert float(sums[token] - w[token] / w.sum()) - 2e-5 <= draw <= float(sums[token]) + 2e-5


@pytest.mark.parametrize("rows", [1, 33])
@pytest.mark.parametrize("kinds", [PLAIN, FILTERS], ids=["plain", "filters"])
def test_tokens_are_those_of_the_inverse_cumulative_sum(kinds, rows):
    sampler = DeviceSampler(CUDA, 64, TOKENIZER_SIZE)
    logits = logits_of(rows, seed=rows)
    for shift in range(1 if rows > 1 else len(kinds)):
        states = [state(i, kinds[(i + shift) % len(kinds)]) for i in range(rows)]
        for i, found in enumerate(run(sampler, logits, states)):
            assert found.error is None
            if states[i].greedy:
                assert found.token == int(logits[i].argmax())
            else:
                check_draw(logits[i], states[i], found.token)


@pytest.mark.parametrize("params", [{"top_p": 0.5}, {"top_k": 7}, {"top_k": 7, "top_p": 0.5}])
def test_equal_logits_are_all_kept(params):
    logits = torch.full((2, TOKENIZER_SIZE), 1.25)
    states = [state(i, params) for i in range(2)]
    for i, found in enumerate(run(DeviceSampler(CUDA, 2, TOKENIZER_SIZE), logits, states)):
        check_draw(logits[i], states[i], found.token)


def test_inference_mode_may_come_and_go():
    sampler = DeviceSampler(CUDA, 8, TOKENIZER_SIZE)
    logits = logits_of(5, seed=8)
    states = [state(i, {"temperature": 0.0}) for i in range(5)]
    with torch.inference_mode():
        sampler.warm_up()
        first = run(sampler, logits, states)
    assert first == run(sampler, logits, states)
    assert [found.token for found in first] == logits.argmax(1).tolist()


def test_a_mixed_batch_agrees_with_the_cpu():
    rows = 84
    masks = masks_of(rows)
    kinds = (PLAIN + OTHERS) * 11
    states = [state(i, kinds[i], masks[i]) for i in range(rows)]
    logits = logits_of(rows, seed=2)
    found = run(DeviceSampler(CUDA, rows, TOKENIZER_SIZE), logits, states)
    wanted = sample(logits.clone(), states, masks)
    drawn_apart = 0
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.error is None, i
        if states[i].greedy:
            assert one.token == other.token, i
        drawn_apart += one.token != other.token
        if one.logprobs is not None and one.token == other.token:
            assert other.logprobs is not None
            assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-4)
            assert [t for t, _ in one.logprobs.top] == [t for t, _ in other.logprobs.top]
    assert drawn_apart <= 1


@pytest.mark.parametrize("kinds", [PLAIN, FILTERS], ids=["plain", "filters"])
def test_a_row_does_not_depend_on_the_others_nor_on_chance(kinds):
    sampler = DeviceSampler(CUDA, 300, TOKENIZER_SIZE)
    logits = logits_of(32, seed=4).repeat(8, 1)
    states = [state(i, kinds[i % len(kinds)]) for i in range(256)]
    together = [found.token for found in run(sampler, logits, states)]
    assert [found.token for found in run(sampler, logits, states)] == together
    for i in (0, 1, 2, 3, 100, 101, 102, 103, 255):
        assert run(sampler, logits[i : i + 1], states[i : i + 1])[0].token == together[i]


@pytest.mark.parametrize("kinds", [PLAIN, FILTERS], ids=["plain", "filters"])
def test_only_the_rows_that_are_not_finite_fail(kinds):
    rows = 2 * len(kinds)
    logits = logits_of(rows, seed=5)
    logits[1::4, 100_000] = math.nan
    logits[3::4, 200_000] = math.inf
    states = [state(i, kinds[i // 2]) for i in range(rows)]
    found = run(DeviceSampler(CUDA, rows, TOKENIZER_SIZE), logits, states)
    assert [one.error for one in found] == [None, NOT_FINITE] * len(kinds)


def test_a_mask_that_failed_fails_its_row_alone():
    states = [state(0, {}, Nothing("It broke.")), state(1, {}, only(9)), state(2, {})]
    found = run(DeviceSampler(CUDA, 3, TOKENIZER_SIZE), logits_of(3, seed=6), states)
    assert [one.error for one in found] == ["It broke.", None, None]
    assert found[1].token == 9


def test_a_step_is_sampled_while_the_next_is_enqueued():
    """Masks that replace each other in the table do not disturb steps that are under way."""
    sampler = DeviceSampler(CUDA, 2, TOKENIZER_SIZE)
    logits = logits_of(1, seed=7).to(CUDA)
    slots = torch.zeros(1, dtype=torch.int32, device=CUDA)
    last = torch.zeros(1, dtype=torch.int32, device=CUDA)
    pending = []
    for step in range(600):
        allowed = (step, step + 3)
        one = state(step, {"temperature": 0.0}, only(*allowed))
        pending.append((allowed, sampler.launch(logits, [one], slots, last)))
    values = logits[0].cpu()
    for allowed, sampling in pending:
        best = max(allowed, key=lambda token: float(values[token]))
        assert sampling.results()[0].token == best
