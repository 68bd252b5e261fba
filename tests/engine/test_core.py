"""The engine in one process: same tokens whatever the schedule, and faults that stay small."""

import math
import random

import pytest

from ossia.engine.sampler import NOT_FINITE


def prompt_of(length: int, seed: int = 0) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(1024) for _ in range(length)]


JOBS = [
    (prompt_of(5, 1), {"temperature": 0.0}),
    (prompt_of(70, 2), {"seed": 11}),
    (prompt_of(33, 3), {"seed": 12, "temperature": 1.5, "top_p": 0.9}),
    (prompt_of(120, 4), {"temperature": 0.0, "presence_penalty": 1.0}),
    (prompt_of(16, 5), {"seed": -5, "top_k": 10}),
    (prompt_of(1, 6), {"seed": 2**64 - 1, "min_p": 0.1}),
]


@pytest.fixture(scope="module")
def alone(make_runs, sampling):
    """What each job yields when nothing else runs, on a fresh cache, in one piece."""
    runs = make_runs(enable_prefix_caching=False)
    for i, (prompt, options) in enumerate(JOBS):
        runs.add(str(i), prompt, sampling(max_tokens=40, **options))
        runs.finish()
    return [runs.tokens(str(i)) for i in range(len(JOBS))]


def together(runs, sampling) -> list[list[int]]:
    for i, (prompt, options) in enumerate(JOBS):
        runs.add(str(i), prompt, sampling(max_tokens=40, **options))
    runs.finish()
    return [runs.tokens(str(i)) for i in range(len(JOBS))]


def test_tokens_are_the_same_alone_and_in_a_batch(make_runs, sampling, alone):
    assert together(make_runs(), sampling) == alone
    assert all(len(tokens) == 40 for tokens in alone)


def test_tokens_are_the_same_with_chunked_prefill(make_runs, sampling, alone):
    runs = make_runs(max_num_batched_tokens=13, max_num_seqs=4)
    assert together(runs, sampling) == alone


def test_tokens_are_the_same_with_other_page_sizes(make_runs, sampling, alone):
    assert together(make_runs(page_size=1), sampling) == alone
    assert together(make_runs(page_size=64), sampling) == alone


def test_tokens_are_the_same_after_a_prefix_hit(make_runs, sampling, alone):
    runs = make_runs()
    first = together(runs, sampling)
    runs.chunks.clear()
    assert together(runs, sampling) == first == alone
    assert sum(chunks[-1].cached_tokens for chunks in runs.chunks.values()) > 100
    assert runs.core.stats.cached_tokens > 100


def test_tokens_are_the_same_with_preemption(make_runs, sampling):
    def run(runs, *, at_once):
        for i in range(6):
            runs.add(str(i), prompt_of(5, i), sampling(seed=i, max_tokens=80))
            if not at_once:
                runs.finish()
        runs.finish()
        return [runs.tokens(str(i)) for i in range(6)]

    page_bytes = 2 * 2 * 2 * 32 * 4 * 16  # layers * (key, value) * kv heads * size * bytes * tokens
    small = {"max_num_seqs": 6, "max_model_len": 256, "kv_cache_memory": 60 * page_bytes}
    runs = make_runs(max_num_batched_tokens=64, enable_prefix_caching=False, **small)
    assert run(runs, at_once=True) == run(make_runs(), at_once=False)
    assert runs.core.stats.preemptions > 0


def test_requests_without_a_seed_differ_but_repeat_with_the_engine(make_runs, sampling):
    def run(seed):
        runs = make_runs(seed=seed)
        for name in "ab":
            runs.add(name, [1, 2, 3], sampling())
        runs.finish()
        return runs.tokens("a"), runs.tokens("b")

    first = run(0)
    assert first[0] != first[1]
    assert run(0) == first


def test_an_abort_returns_every_page(make_runs, sampling):
    runs = make_runs(max_num_batched_tokens=64, max_num_seqs=8)
    for i in range(12):
        runs.add(str(i), prompt_of(100, i), sampling(max_tokens=500))
    for _ in range(7):
        runs.step()
    assert runs.core.stats.full_pages_used > 0
    runs.core.abort([str(i) for i in range(12)] + ["unknown"])
    stats = runs.core.stats
    assert not runs.core.has_work
    assert (stats.running, stats.waiting) == (0, 0)
    assert (stats.full_pages_used, stats.window_pages_used) == (0, 0)


def test_a_request_that_cannot_run_is_answered_with_a_sentence(make_runs, sampling):
    runs = make_runs(max_model_len=64)
    runs.add("long", prompt_of(64), sampling())
    runs.add("bad", [1], sampling(temperature=-1.0))
    runs.add("empty", [], sampling())
    runs.add("good", [1], sampling())
    runs.finish()
    for name in ("long", "bad", "empty"):
        assert runs.reason(name) == "error"
        assert runs.chunks[name][0].error
    assert runs.reason("good") == "length"


def test_stop_tokens_end_a_request_and_are_delivered(make_runs, sampling):
    runs = make_runs()
    runs.add("free", [7, 8], sampling(temperature=0.0))
    runs.finish()
    free = runs.tokens("free")
    stop = free[4]
    runs.add("stop", [7, 8], sampling(temperature=0.0, stop_token_ids=(stop,)))
    runs.finish()
    assert runs.reason("stop") == "stop"
    assert runs.tokens("stop") == free[: free.index(stop) + 1]
    runs.add("min", [7, 8], sampling(temperature=0.0, stop_token_ids=(stop,), min_tokens=12))
    runs.finish()
    assert runs.reason("min") == "length"
    assert stop not in runs.tokens("min")[:11]


def test_logprobs_come_with_each_token(make_runs, sampling):
    runs = make_runs()
    runs.add("a", [1, 2], sampling(temperature=0.0, logprobs=2))
    runs.add("b", [1, 2], sampling(temperature=0.0))
    runs.finish()
    assert runs.tokens("a") == runs.tokens("b")
    assert all(chunk.logprobs is None for chunk in runs.chunks["b"])
    for chunk in runs.chunks["a"]:
        assert chunk.logprobs is not None
        (found,) = chunk.logprobs
        assert found.top[0] == (chunk.token_ids[0], pytest.approx(found.logprob, abs=1e-5))
        assert found.top[0][1] >= found.top[1][1]


class Poisoned:
    """The network, but with NaN in the row of a request whose prompt ends with a given token."""

    def __init__(self, model, token: int) -> None:
        self._model, self._token = model, token
        self.config, self.dtype = model.config, model.dtype

    def forward(self, batch, caches):
        logits = self._model.forward(batch, caches)
        logits[batch.token_ids[batch.logit_rows] == self._token] = math.nan
        return logits


class Breaking(Poisoned):
    """The network, but raising when a given token is in the batch."""

    def forward(self, batch, caches):
        if (batch.token_ids == self._token).any():
            raise RuntimeError("no kernel for this token")
        return self._model.forward(batch, caches)


@pytest.mark.parametrize("fault", [Poisoned, Breaking])
def test_a_fault_of_one_request_ends_that_one_alone(make_runs, sampling, alone, fault):
    runs = make_runs()
    bad = next(t for t in range(1024) if all(t not in prompt for prompt, _ in JOBS))
    bad_free = [t for tokens in alone for t in tokens].count(bad) == 0
    assert bad_free, "choose another token"
    runner = runs.core._runner
    runner._model = fault(runner._model, bad)
    runs.add("bad", [1, 2, bad], sampling())
    runs.add("long", [*prompt_of(50), bad, *prompt_of(1500), bad], sampling())
    assert together(runs, sampling) == alone
    for name in ("bad", "long"):
        assert runs.reason(name) == "error"
        assert runs.tokens(name) == []
    assert fault is Breaking or runs.chunks["bad"][0].error == NOT_FINITE
    assert runs.core.stats.full_pages_used == 0


def test_pages_of_a_request_that_became_nan_do_not_spoil_the_next(make_runs, sampling, alone):
    runs = make_runs(max_num_seqs=2, max_model_len=512)
    for cache in runs.core._runner._caches:
        cache.keys.fill_(math.nan)
        cache.values.fill_(math.nan)
    assert together(runs, sampling) == alone


def test_times_add_up(make_runs, sampling):
    runs = make_runs()
    runs.add("a", [1], sampling())
    runs.finish()
    stats = runs.core.stats
    assert stats.steps == stats.generated_tokens == 12
    assert 0 < stats.model_seconds < stats.step_seconds


def test_random_histories_lose_no_page(make_runs, sampling):
    source = random.Random(5)
    runs = make_runs(
        max_num_seqs=6, max_num_batched_tokens=48, max_model_len=160, kv_cache_memory=900 << 10
    )
    live: list[str] = []
    for i in range(200):
        if source.random() < 0.3:
            live.append(f"r{i}")
            shared = prompt_of(source.randrange(1, 100), source.randrange(3))
            runs.add(live[-1], shared, sampling(max_tokens=source.randrange(1, 60)))
        if live and source.random() < 0.15:
            runs.core.abort([live.pop(source.randrange(len(live)))])
        if runs.core.has_work:
            runs.step()
            runs.core._scheduler.check_invariants()
    runs.finish()
    stats = runs.core.stats
    assert (stats.full_pages_used, stats.window_pages_used) == (0, 0)
    assert not runs.core._states
