"""The device sampler does what the sampler of the CPU does.

It runs with the reference of its kernels here, and in a process of its own with the kernels in
Triton's interpreter; `tests/gpu/test_device_sampler.py` runs it on a GPU.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ossia.engine.device_sampler import DeviceSampler
from ossia.engine.device_sampling_masks import MaskTable
from ossia.engine.device_sampling_rows import HostRows
from ossia.engine.masks import AllBut, Nothing, only, words_of
from ossia.engine.randomness import uniform
from ossia.engine.sampler import sample
from ossia.engine.sampling_state import SamplingState
from ossia.sampling import SamplingParams

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"
CPU = torch.device("cpu")
VOCAB = 1024

KINDS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "logprobs": 3},
    {"temperature": 3.0, "top_p": 0.7},
    {"top_k": 5, "logprobs": 0},
    {"top_k": 900, "min_p": 0.01},
    {
        "presence_penalty": 1.0,
        "frequency_penalty": 0.3,
        "logit_bias": {3: 50.0, 7: 51.0, 999: 50.0},
    },
    {"min_tokens": 9, "logprobs": 1, "repetition_penalty": 1.3},
    {"min_tokens": 9, "temperature": 0.0},
    {"min_tokens": 3, "min_p": 0.2},
]


@pytest.mark.skipif(INTERPRETING, reason="this is the process that it starts")
@pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="Triton is not installed (it comes with torch for CUDA)",
)
def test_in_the_interpreter():
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", "mixed", __file__],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert " passed" in run.stdout


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    """The interpreter made to work with NumPy 2.4 (see the attention's test)."""
    if not INTERPRETING:
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch)


def state(generated=(), seed=0, stop=(), mask=None, **params) -> SamplingState:
    follower = None if mask is None else SimpleNamespace(mask=mask, record=lambda token: None)
    made = SamplingState(
        SamplingParams(**params), seed=seed, prompt=(1, 7), stop_token_ids=stop, follower=follower
    )
    for token in generated:
        made.record(token)
    return made


def all_but(*tokens: int) -> AllBut:
    return AllBut(torch.tensor(sorted(tokens), dtype=torch.int64), False)


def masks_of(rows: int) -> list:
    shared, long = all_but(*range(900, 1000)), only(*range(0, 700, 2))
    choices = [None, shared, only(4), long, only(5, 6), Nothing("It broke."), shared, only(5, 9)]
    return [choices[i % 8] for i in range(rows)]


def logits_of(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def run(logits: torch.Tensor, states: list[SamplingState]):
    sampler = DeviceSampler(CPU, max(1, len(states)), logits.shape[1])
    slots = torch.arange(len(states), dtype=torch.int32)
    last = torch.full((len(states),), -1, dtype=torch.int32)
    results = sampler.launch(logits.clone(), states, slots, last).results()
    for found, token in zip(results, last.tolist(), strict=True):
        assert token == found.token or (found.error and 0 <= token < VOCAB)
    return results


def compare(found, wanted) -> None:
    for one, other in zip(found, wanted, strict=True):
        assert (one.token, one.error) == (other.token, other.error)
        assert (one.logprobs is None) == (other.logprobs is None)
        if one.logprobs is not None:
            assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-5)
            assert [i for i, _ in one.logprobs.top] == [i for i, _ in other.logprobs.top]
            assert [p for _, p in one.logprobs.top] == pytest.approx(
                [p for _, p in other.logprobs.top], abs=1e-5
            )


@pytest.mark.parametrize("masked", [False, True])
def test_a_mixed_batch_gets_the_tokens_of_the_cpu(masked):
    rows = 20 if INTERPRETING else 80
    masks = masks_of(rows) if masked else [None] * rows
    kinds = [KINDS[(i * 3) % len(KINDS)] for i in range(rows)]
    states = [
        state([7, 7, i], seed=i, stop=(5, 6), mask=mask, **kind)
        for i, (mask, kind) in enumerate(zip(masks, kinds, strict=True))
    ]
    logits = logits_of(rows)
    logits[3, 77] = math.nan
    logits[13, 900] = math.inf
    compare(run(logits, states), sample(logits.clone(), states, masks))


def test_a_mixed_batch_of_one_kind_gets_the_tokens_of_the_cpu():
    for kind in KINDS[: 3 if INTERPRETING else None]:
        states = [state([7], seed=i, stop=(5,), **kind) for i in range(3)]
        compare(run(logits_of(3), states), sample(logits_of(3), states))


def test_it_warms_up_with_a_small_vocabulary():
    DeviceSampler(CPU, 1, VOCAB).warm_up()


def test_no_rows_need_no_launch():
    assert run(logits_of(0), []) == []


def test_a_mask_of_one_token_needs_no_logits():
    logits = torch.full((2, VOCAB), math.nan)
    first, second = run(logits, [state(mask=only(4)), state(mask=only(4), logprobs=0)])
    assert (first.token, first.error) == (4, None)
    assert second.error is not None


def test_ids_past_the_vocabulary_are_never_sampled():
    logits = torch.zeros(2, 201216)
    logits[:, 201088:] = 100.0
    greedy, drawn = run(logits, [state(temperature=0.0), state(top_k=3, logprobs=2)])
    assert greedy.token == 0
    assert drawn.token < 201088
    assert drawn.logprobs is not None
    assert all(token < 201088 for token, _ in drawn.logprobs.top)


def test_rows_are_described_as_their_states_say():
    states = [state([1] * i, seed=(-1) ** i * 37**i) for i in range(12)]
    states += [
        state(seed=2**64 - 1, top_k=2**40, min_tokens=2**40),
        state(temperature=0.0, top_k=2),
    ]
    rows = HostRows(states, VOCAB)
    buffer = np.zeros(8 * 16, dtype=np.int32)
    rows.write(buffer)
    draws = buffer[:32].view(np.float64)
    assert draws[:13].tolist() == [uniform(s.seed, s.generated) for s in states[:13]]
    assert draws[13] == -1.0
    assert not rows.filters
    assert rows.stop_is_masked.tolist() == [False] * 12 + [True, False]


def test_filters_that_leave_everything_are_none():
    for params, searches, filters in (
        ({"top_k": VOCAB}, False, False),
        ({"top_k": VOCAB - 1}, True, True),
        ({"top_k": VOCAB, "min_p": 0.1}, False, True),
        ({"top_p": 0.9}, True, True),
        ({"temperature": 0.0, "top_p": 0.9}, False, False),
    ):
        rows = HostRows([state(), state(**params)], VOCAB)
        assert (rows.searches, rows.filters) == (searches, filters), params


def test_results_may_be_read_late_in_any_order_and_twice():
    sampler = DeviceSampler(CPU, 3, VOCAB)
    last = torch.zeros(3, dtype=torch.int32)
    samplings, wanted = [], []
    for step in range(6):
        rows = 1 + step % 3
        logits = logits_of(rows, seed=step)
        states = [state(temperature=0.0) for _ in range(rows)]
        with torch.inference_mode(step % 2 == 0):
            samplings.append(sampler.launch(logits, states, torch.arange(rows).int(), last))
        wanted.append(logits.argmax(1).tolist())
        if step == 3:
            assert samplings[2].result().tokens == wanted[2]
    for i in (5, 0, 3, 2, 1, 4, 0):
        assert samplings[i].result().tokens == wanted[i]


def test_equal_masks_share_a_row_of_the_table_and_the_oldest_is_replaced():
    table = MaskTable(CPU, capacity=3)
    one, two, three, four = only(4, 5), all_but(9), only(1, 2), all_but(7, 8)
    rows = table.rows_of([one, two, one, three])
    assert rows[0] == rows[2]
    assert sorted(set(rows)) == [0, 1, 2]
    assert table.rows_of([four, one]) == [rows[1], rows[0]]
    for mask, row in ((one, rows[0]), (three, rows[3]), (four, rows[1])):
        assert table.bits[row].tolist() == words_of(mask).tolist()
