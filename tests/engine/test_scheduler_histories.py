"""Random histories of requests against a fake model that really reads and writes pages.

The fake model stores, in the slot of every key, a hash of all tokens up to it. Reading a sequence
back through its page tables must give exactly its own history, in both pools; the next token is a
hash of what was read. Any page that is lost, shared wrongly, overwritten or freed too early
changes what is read, and any dependence on the batch changes the answer.

Half of the histories plan each step before the tokens of the one before it are known. Their model
runs as soon as it can, ahead of `commit`; test_pipelining.py has one that runs late.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.kv_cache import CacheConfig
from ossia.engine.request import Request
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.engine.step_plan import ScheduledSequence, StepPlan
from ossia.sampling import SamplingParams

EOS = 0
VOCAB = 4
CONTEXT = 40  # tokens


def histories(tokens: list[int]) -> list[int]:
    """For every position, a hash of the tokens up to it."""
    out, value = [], 17
    for token in tokens:
        value = hash((value, token))
        out.append(value)
    return out


def next_token(full: list[int], window: list[int]) -> int:
    """The fake model's choice, from the contents of the keys it attends to."""
    return hash((tuple(full), tuple(window))) % VOCAB


def answer_alone(
    prompt: list[int], params: SamplingParams, sliding_window: int
) -> tuple[list[int], str]:
    """What the request must generate, computed without pages, batch or cache."""
    tokens = list(prompt)
    limit = CONTEXT - len(prompt)
    if params.max_tokens is not None:
        limit = min(limit, params.max_tokens)
    while True:
        keys = histories(tokens)
        tokens.append(next_token(keys, keys[-sliding_window:]))
        generated = len(tokens) - len(prompt)
        if tokens[-1] == EOS and not params.ignore_eos and generated >= params.min_tokens:
            return tokens[len(prompt) :], "stop"
        if generated >= limit:
            return tokens[len(prompt) :], "length"


@dataclass
class PagedModel:
    """Two pools of slots and a network that checks everything it reads."""

    scheduler: Scheduler
    full: dict[int, int] = field(default_factory=dict)
    window: dict[int, int] = field(default_factory=dict)
    sampled: dict[Request, int] = field(default_factory=dict)  # by the step before

    def run(self, plan: StepPlan) -> list[int]:
        """Write all keys of the step, then let all queries read; one token a sampling sequence."""
        for item in plan.sequences:
            self._write(item)
        chosen = [(item, self._read(item)) for item in plan.sequences]
        self.sampled = {item.request: token for item, token in chosen if item.samples}
        return [token for item, token in chosen if item.samples]

    def _tokens(self, item: ScheduledSequence) -> list[int]:
        """All tokens up to those of the step; the scheduler may not know the last one yet."""
        end = item.start + item.num_tokens
        if end <= len(item.request.tokens):
            return item.request.tokens[:end]
        assert end == len(item.request.tokens) + 1
        return [*item.request.tokens, self.sampled[item.request]]

    def _write(self, item: ScheduledSequence) -> None:
        size = self.scheduler.cache.config.page_size
        keys = histories(self._tokens(item))
        for position in range(item.start, item.start + item.num_tokens):
            page, offset = divmod(position, size)
            if position >= item.pages.full_write_start:
                full = item.pages.full[page]
                self._assert_exclusive(self.scheduler.cache.full, full)
                self.full[full * size + offset] = keys[position]
            window = item.pages.window[page - item.pages.window_start]
            self._assert_exclusive(self.scheduler.cache.window, window)
            self.window[window * size + offset] = keys[position]

    @staticmethod
    def _assert_exclusive(pool: object, page: int) -> None:
        assert page != 0, "a key went to the scratch page"
        assert pool.users[page] == 1, "a shared page was written"
        assert pool.keepers[page] == 0, "a cached page was written"

    def _read(self, item: ScheduledSequence) -> int:
        """Check every key that any query of the sequence attends to; the last query's choice."""
        config = self.scheduler.cache.config
        size, pages = config.page_size, item.pages
        end = item.start + item.num_tokens
        keys = histories(self._tokens(item))
        full = [self.full[pages.full[p // size] * size + p % size] for p in range(end)]
        assert full == keys, "the full pool holds another context"
        first = max(0, item.start - config.sliding_window + 1)
        assert first // size >= pages.window_start, "a window page was freed too early"
        window = [
            self.window[pages.window[p // size - pages.window_start] * size + p % size]
            for p in range(first, end)
        ]
        assert window == keys[first:], "the window pool holds another context"
        return next_token(full, window[-config.sliding_window :])


@dataclass
class History:
    """A scheduler, its fake model, and what every request has produced so far."""

    scheduler: Scheduler
    model: PagedModel
    pipelined: bool = False
    ahead: tuple[StepPlan, list[int]] | None = None  # the step under way, and what it samples
    live: dict[str, tuple[list[int], SamplingParams]] = field(default_factory=dict)
    answers: dict[str, list[int]] = field(default_factory=dict)
    finished: list[list[int]] = field(default_factory=list)  # prompt and answer
    added: int = 0

    def add(self, prompt: list[int], params: SamplingParams) -> None:
        request_id = f"r{self.added}"
        self.added += 1
        self.scheduler.add(request_id, prompt, params)
        self.live[request_id] = (prompt, params)
        self.answers[request_id] = []

    def abort(self, which: int) -> None:
        if self.live:
            request_id = list(self.live)[which % len(self.live)]
            self.scheduler.abort([request_id])
            del self.live[request_id]

    def fail(self, which: int) -> None:
        if self.live:
            request_id = list(self.live)[which % len(self.live)]
            output = self.scheduler.finish_with_error(request_id, "It broke.")
            assert output is not None
            assert output.finish_reason == "error"
            del self.live[request_id]

    def step(self, during: Sequence[tuple[str, int]] = ()) -> None:
        """One step; `during` are things that happen between its start and its results."""
        plan, tokens = self.ahead or self._begin()
        self.ahead = self._begin_ahead() if self.pipelined else None
        for what, which in during:
            if what == "cancel":
                if self.ahead is not None:
                    self.scheduler.cancel(self.ahead[0])
                    self.ahead = None
                self.scheduler.cancel(plan)
                self.scheduler.check_invariants()
                return
            {"abort": self.abort, "fail": self.fail}[what](which)
        for output in self.scheduler.commit(plan, tokens):
            self.answers[output.request_id] += output.token_ids
            if output.finish_reason is not None:
                self._check_answer(output.request_id, output.finish_reason)
        self.scheduler.check_invariants()
        self._check_windows()

    def _begin(self) -> tuple[StepPlan, list[int]]:
        plan = self.scheduler.schedule()
        self._check_plan(plan)
        return plan, self.model.run(plan)

    def _begin_ahead(self) -> tuple[StepPlan, list[int]] | None:
        preemptions = self.scheduler.stats().preemptions
        plan = self.scheduler.schedule(ahead=True)
        assert self.scheduler.stats().preemptions == preemptions
        self._check_limits(plan)
        if plan.sequences:
            return plan, self.model.run(plan)
        self.scheduler.cancel(plan)
        return None

    def follow_up(self, which: int, block: list[int], params: SamplingParams) -> None:
        """The next turn of a finished request: its prompt and answer, and something more."""
        if self.finished:
            told = self.finished[which % len(self.finished)]
            self.add((told + block)[: CONTEXT - 1], params)

    def drain(self) -> None:
        """Run to the end: every request must finish, and every page come back."""
        work = sum(CONTEXT for _ in self.live)
        for _ in range(20 * work + 1):
            if not self.scheduler.has_work and self.ahead is None:
                break
            self.step()
        assert not self.live, "a request starved"
        cache = self.scheduler.cache
        assert cache.full.in_use == cache.window.in_use == 0
        self.scheduler.reset_prefix_cache()
        assert cache.full.num_free == cache.full.capacity
        assert cache.window.num_free == cache.window.capacity
        self.scheduler.check_invariants()

    def _check_limits(self, plan: StepPlan) -> None:
        config = self.scheduler.config
        assert len(plan.sequences) <= config.max_num_seqs
        assert plan.num_tokens == sum(i.num_tokens for i in plan.sequences)
        assert plan.num_tokens <= config.max_num_batched_tokens
        assert all(0 <= i.request.seat < config.max_num_seqs for i in plan.sequences)
        assert len({i.request.seat for i in plan.sequences}) == len(plan.sequences)

    def _check_plan(self, plan: StepPlan) -> None:
        self._check_limits(plan)
        assert bool(plan.sequences) == self.scheduler.has_work, "a step did nothing"
        running = self._running()
        if running:
            oldest = running[0]
            assert any(i.request is oldest for i in plan.sequences), "the oldest was passed over"
        planned = {i.request.request_id for i in plan.sequences}
        assert len(planned) == len(plan.sequences)
        for request in running:
            if len(request.tokens) - request.num_computed == 1:
                assert request.request_id in planned, "a decode was starved by prompts"

    def _check_answer(self, request_id: str, reason: str) -> None:
        prompt, params = self.live.pop(request_id)
        window = self.scheduler.cache.config.sliding_window
        answer = self.answers[request_id]
        assert (answer, reason) == answer_alone(prompt, params, window)
        self.finished.append(prompt + answer)

    def _check_windows(self) -> None:
        """A sequence holds the pages that queries from its last page boundary on can see."""
        config = self.scheduler.cache.config
        for request in self._running():
            boundary = request.num_computed // config.page_size * config.page_size
            first_key = max(0, boundary - config.sliding_window + 1)
            assert request.pages is not None
            assert request.pages.window_start == first_key // config.page_size
            assert len(request.pages.window) == (
                -(-request.num_scheduled // config.page_size) - request.pages.window_start
            )

    def _running(self) -> list[Request]:
        requests = (self.scheduler.get(i) for i in self.live)
        return [r for r in requests if r is not None and r.pages is not None]


@st.composite
def schedulers(draw: st.DrawFn) -> Scheduler:
    """Small pools of every shape, from just enough for one request to plenty."""
    page_size = draw(st.integers(1, 4))
    window = draw(st.sampled_from([1, 2, 3, 5, 8]))
    pages = -(-CONTEXT // page_size)
    reach = -(-(window - 1) // page_size)
    cache = CacheConfig(
        page_size=page_size,
        num_full_pages=1 + pages + draw(st.sampled_from([0, 1, 3, pages, 3 * pages])),
        num_window_pages=1 + (reach + 1) * draw(st.integers(1, 6)) + draw(st.integers(0, 12)),
        sliding_window=window,
        enable_prefix_caching=draw(st.integers(0, 5)) > 0,
        tail_interval=draw(st.sampled_from([4, 8, 512])),
    )
    limits = SchedulerConfig(
        max_num_seqs=draw(st.sampled_from([1, 2, 4, 8])),
        max_num_batched_tokens=draw(st.sampled_from([1, 3, 8, 16, 64])),
        max_model_len=CONTEXT,
        eos_token_ids=(EOS,),
    )
    return Scheduler(limits, cache)


BLOCKS = ([1, 2, 3, 1, 2, 3, 1], [2, 2, 2, 2, 2], [3, 1], [1])  # prompts are built of these

prompts = st.lists(st.sampled_from(BLOCKS), min_size=1, max_size=5).map(
    lambda blocks: [token for block in blocks for token in block]
)
params = st.builds(
    lambda most, least, ignore: SamplingParams(
        max_tokens=most, min_tokens=least if most is None else min(least, most), ignore_eos=ignore
    ),
    st.sampled_from([None, 1, 4, 12, 30]),
    st.sampled_from([0, 0, 3, 20]),
    st.booleans(),
)
during = st.lists(st.tuples(st.sampled_from(["abort", "fail"]), st.integers(0, 7)), max_size=2)
adds = st.tuples(st.just("add"), prompts, params)
follow_ups = st.tuples(st.just("follow up"), st.integers(0, 7), st.sampled_from(BLOCKS), params)
steps = st.tuples(st.just("steps"), st.integers(1, 6))
rare = st.one_of(
    st.tuples(st.just("abort"), st.integers(0, 7)),
    st.tuples(st.just("fail"), st.integers(0, 7)),
    st.tuples(st.just("step"), during),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("reset")),
)
events = st.one_of(adds, adds, follow_ups, steps, rare)


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(
    schedulers(),
    st.booleans(),
    st.lists(adds, min_size=2, max_size=6),
    st.lists(events, min_size=6, max_size=30),
)
def test_every_request_gets_its_own_answer_in_any_history(
    scheduler: Scheduler,
    pipelined: bool,
    first: list[tuple[Any, ...]],
    then: list[tuple[Any, ...]],
) -> None:
    history = History(scheduler, PagedModel(scheduler), pipelined)
    for what, *args in first + then:
        if what == "add":
            history.add(*args)
        elif what == "follow up":
            history.follow_up(*args)
        elif what == "steps":
            for _ in range(args[0]):
                history.step()
        elif what == "abort":
            history.abort(args[0])
        elif what == "fail":
            history.fail(args[0])
        elif what == "step":
            history.step(args[0])
        elif what == "cancel":
            history.step([("cancel", 0)])
        else:
            scheduler.reset_prefix_cache()
        if what not in ("steps", "step"):
            scheduler.check_invariants()
    history.drain()


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_every_request_gets_its_own_answer_under_page_pressure(seed: int) -> None:
    rng = random.Random(seed)
    page_size = rng.choice([1, 2, 4])
    cache = CacheConfig(
        page_size=page_size,
        num_full_pages=1 + -(-CONTEXT // page_size) + rng.randrange(30 // page_size),
        num_window_pages=1 + 8 * (-(-4 // page_size) + 1) + rng.randrange(8),
        sliding_window=5,
        tail_interval=8,
    )
    scheduler = Scheduler(SchedulerConfig(8, rng.choice([8, 12, 40]), CONTEXT, (EOS,)), cache)
    history = History(scheduler, PagedModel(scheduler), pipelined=rng.random() < 0.5)
    for _ in range(40):
        what = rng.random()
        choice = SamplingParams(max_tokens=rng.choice([3, 12, 30]), ignore_eos=rng.random() < 0.8)
        if what < 0.4:
            blocks = rng.choices(BLOCKS, k=rng.randint(1, 5))
            history.add([token for block in blocks for token in block], choice)
        elif what < 0.5:
            history.follow_up(rng.randrange(8), rng.choice(BLOCKS), choice)
        elif what < 0.55:
            history.abort(rng.randrange(8))
        else:
            history.step([("abort", rng.randrange(8))] if rng.random() < 0.1 else ())
    history.drain()
