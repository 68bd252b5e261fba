"""One step in flight changes no token: an engine with a fake device that is late against one that
is not.

The fake device has a queue and looks at it when it likes. A key is a hash of the key before it, as
the device finds it in the cache, and of its token; a token is a hash of the keys that its query
sees and of what the host said when it was sampled. Any page that is shared wrongly, overwritten or
freed too early, any token that is fed to the wrong request and any state that is not up to date
changes what comes out.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.engine.core import EngineCore
from ossia.engine.grammars import Grammars
from ossia.engine.kv_cache import CacheConfig
from ossia.engine.mask_worker import MaskWorker
from ossia.engine.masks import MaskCache
from ossia.engine.messages import EngineInfo, Generate, TokenLogprobs
from ossia.engine.request import Request
from ossia.engine.sampling_state import SamplingState
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.engine.step_plan import ScheduledSequence
from ossia.engine.step_runner import StepResult
from ossia.sampling import SamplingParams

EOS = 0
CULPRIT = 6  # in a prompt: a step with this token cannot be started
POISON = 7  # at the end of a prompt: what is sampled there is not a number
VOCAB = 6
CONTEXT = 48
WINDOW = 5
CPU = torch.device("cpu")


class Violation(BaseException):
    """The engine asked for something that it must not; no Exception, or it would handle it."""


def require(condition: bool, sentence: str) -> None:
    if not condition:
        raise Violation(sentence)


@dataclass(frozen=True)
class Part:
    """What a step needs to know of a sequence; a copy, because tables change."""

    request: Request
    seat: int
    start: int
    tokens: list[int]  # empty: the one on the device
    count: int
    full: list[int]
    window: list[int]
    window_start: int
    write_start: int


@dataclass(eq=False)
class FakeFlight:
    parts: list[Part]
    samples: list[Request]
    seen: list[int | None] = field(default_factory=list)  # hashes, of parts that sample
    result: StepResult | None = None
    is_sampled: bool = False
    is_dropped: bool = False


CALM = 50  # calls without a fault: more than it takes to run the sequences one by one


class FakeRunner:
    """A device that runs what is enqueued in order, but not before somebody waits for it.

    `faults` is how likely it is that a call raises for no reason that it will have the next time.
    """

    def __init__(self, page_size: int, source: random.Random, *, faults: float = 0.0) -> None:
        self.pipelined = True
        self.model_seconds = 0.0
        self.masks = MaskWorker(MaskCache())
        self.ahead = 0  # steps started while another one was out
        self._page_size = page_size
        self._source = source
        self._faults = faults
        self._calm = 0  # calls without a fault
        self._queue: list[Callable[[], None]] = []
        self._full: dict[int, int] = {}
        self._window: dict[int, int] = {}
        self._seats: dict[int, int] = {}
        self._flights: list[FakeFlight] = []

    def start(
        self, sequences: Sequence[ScheduledSequence], states: Sequence[SamplingState]
    ) -> FakeFlight:
        require(len(self._flights) < 1 + self.pipelined, "too many steps are out")
        require(all(flight.is_sampled for flight in self._flights), "the other was not sampled")
        self.ahead += len(self._flights)
        self._maybe_break()
        parts = [self._part(item) for item in sequences]
        if any(CULPRIT in part.tokens for part in parts):
            self._calm = CALM
            raise RuntimeError("no kernel for this token")
        flight = FakeFlight(parts, [item.request for item in sequences if item.samples])
        require(len(states) == len(flight.samples), "not as many states as rows")
        wants = [item.samples for item in sequences]
        self._flights.append(flight)
        self._enqueue(lambda: self._compute(flight, wants))
        return flight

    def sample(self, flight: FakeFlight, states: Sequence[SamplingState | None]) -> None:
        require(self._flights == [flight], "another step is out")
        require(not flight.is_sampled, "sampled twice")
        self._maybe_break()
        told = []
        for request, state in zip(flight.samples, states, strict=True):
            if state is not None:
                require(state.generated == request.num_generated, "a state is not up to date")
            counts = None if state is None or state.counts is None else state.counts
            told.append(
                (
                    state is not None and state.stop_is_masked,
                    len(request.tokens),
                    0 if counts is None else hash(tuple(counts.counts.tolist())),
                )
            )
        flight.is_sampled = True
        self._enqueue(lambda: self._choose(flight, told, states))

    def finish(self, flight: FakeFlight) -> StepResult:
        require(self._flights[0] is flight, "not the oldest step")
        self._maybe_break()
        while flight.result is None:
            self._queue.pop(0)()
        self._flights.remove(flight)
        return flight.result

    def drop(self, flight: FakeFlight) -> None:
        require(self._flights[-1] is flight, "not the youngest step")
        flight.is_dropped = True
        self._flights.remove(flight)

    def _maybe_break(self) -> None:
        self._calm -= 1
        if self._calm < 0 and self._source.random() < self._faults:
            self._calm = CALM
            raise RuntimeError("for no reason")

    def _enqueue(self, work: Callable[[], None]) -> None:
        self._queue.append(work)
        for _ in range(self._source.choice([0, 0, 1, len(self._queue)])):
            if self._queue:
                self._queue.pop(0)()

    def _part(self, item: ScheduledSequence) -> Part:
        request, pages, start, count, _ = item
        tokens = request.tokens[start : start + count]
        if len(tokens) < count:
            require(not tokens and count == 1, "only the next token may be unknown")
            others = [flight.samples for flight in self._flights]
            require(any(request in samples for samples in others), "no step knows the token")
        return Part(
            request,
            request.seat,
            start,
            tokens,
            count,
            list(pages.full),
            list(pages.window),
            pages.window_start,
            pages.full_write_start,
        )

    def _compute(self, flight: FakeFlight, wants: list[bool]) -> None:
        size = self._page_size

        def full(part: Part, position: int) -> int:
            return part.full[position // size] * size + position % size

        def window(part: Part, position: int) -> int:
            return part.window[position // size - part.window_start] * size + position % size

        for part in flight.parts:
            key = self._full.get(full(part, part.start - 1), 0) if part.start else 17
            tokens = part.tokens or [self._seats[part.seat]]
            for position, token in enumerate(tokens, part.start):
                key = hash((key, token))
                if position >= part.write_start:
                    self._full[full(part, position)] = key
                self._window[window(part, position)] = key
        for part, samples in zip(flight.parts, wants, strict=True):
            end = part.start + part.count
            # Every key that a query of the window layers sees, the first one's included.
            first = max(0, part.start - WINDOW + 1)
            keys = [self._full.get(full(part, p), 0) for p in range(end)]
            near = [self._window.get(window(part, p), 0) for p in range(first, end)]
            same = near == keys[first:]
            if samples:
                flight.seen.append(hash(tuple(keys)) if same else None)
            else:
                gone = flight.is_dropped or part.request.pages is None
                require(same or gone, "a window page was freed too early")

    def _choose(
        self,
        flight: FakeFlight,
        told: list[tuple[bool, int, int | None]],
        states: Sequence[SamplingState | None],
    ) -> None:
        parts = {part.request: part for part in flight.parts}
        tokens, errors, logprobs = [], {}, {}
        for row, request in enumerate(flight.samples):
            no_stop, place, counts = told[row]
            state = states[row]
            seen = flight.seen[row]
            gone = flight.is_dropped or state is None
            require(seen is not None or gone, "a window page was freed too early")
            token = hash((seen, place, counts)) % VOCAB
            if token == EOS and no_stop:
                token = 1
            if request.tokens[-1] == POISON:
                errors[row] = "not a number"
            if state is None:
                token = self._source.randrange(VOCAB)  # nobody wants it
                errors[row] = "nobody asked"
            elif state.params.logprobs is not None:
                logprobs[row] = TokenLogprobs(float(token), [])
            self._seats[parts[request].seat] = token
            tokens.append(token)
        flight.result = StepResult(tokens, logprobs, errors)


@dataclass
class Shape:
    """Sizes of an engine."""

    page_size: int = 4
    full: int = 400
    window: int = 100
    seqs: int = 8
    budget: int = 64
    caching: bool = True


@dataclass
class Engine:
    """An engine with a fake device, and what came out of it."""

    core: EngineCore
    scheduler: Scheduler
    runner: FakeRunner
    tokens: dict[str, list[int]] = field(default_factory=dict)
    ends: dict[str, tuple[str, str | None]] = field(default_factory=dict)

    @classmethod
    def make(cls, shape: Shape, *, pipelined: bool, faults: float = 0.0, seed: int = 0) -> Engine:
        scheduler = Scheduler(
            SchedulerConfig(shape.seqs, shape.budget, CONTEXT, (EOS,)),
            CacheConfig(
                shape.page_size, shape.full + 1, shape.window + 1, WINDOW, shape.caching, 8
            ),
        )
        runner = FakeRunner(shape.page_size, random.Random(seed), faults=faults)
        runner.pipelined = pipelined
        info = EngineInfo("", "", "", "", None, "", VOCAB + 2, CONTEXT, shape.seqs, [EOS], [])
        grammars = Grammars(MaskCache(), no_vocabulary)
        return cls(EngineCore(scheduler, runner, grammars, info, 0), scheduler, runner)

    def add(self, name: str, prompt: list[int], params: SamplingParams) -> None:
        self.tokens[name] = []
        self.core.add(Generate(name, prompt, params))

    def step(self) -> None:
        for chunk in self.core.step().chunks:
            assert chunk.request_id not in self.ends, "something came after the end"
            self.tokens[chunk.request_id] += chunk.token_ids
            if chunk.logprobs is not None:
                assert [found.logprob for found in chunk.logprobs] == chunk.token_ids
            if chunk.finish_reason is not None:
                self.ends[chunk.request_id] = chunk.finish_reason, chunk.error
        self.scheduler.check_invariants()

    def finish(self) -> None:
        for _ in range(5000):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work, "a request starved"
        stats = self.core.stats
        assert (stats.full_pages_used, stats.window_pages_used) == (0, 0)
        assert not self.core._states
        assert not self.runner._flights


def no_vocabulary() -> Future[None]:
    raise AssertionError("nothing here needs a grammar")


BLOCKS = ([1, 2, 3, 1, 2, 3, 1], [2, 2, 2, 2, 2], [3, 1], [1])


def random_job(source: random.Random) -> tuple[list[int], SamplingParams]:
    prompt = [t for block in source.choices(BLOCKS, k=source.randint(1, 5)) for t in block]
    ending = source.random()
    if ending < 0.04:
        prompt[source.randrange(len(prompt))] = CULPRIT
    elif ending < 0.08:
        prompt[-1] = POISON
    most = source.choice([None, 1, 2, 5, 12, 30])
    least = source.choice([0, 0, 3, 20])
    return prompt, SamplingParams(
        max_tokens=most,
        min_tokens=least if most is None else min(least, most),
        ignore_eos=source.random() < 0.5,
        stop_token_ids=source.choice([(), (), (4,)]),
        presence_penalty=source.choice([0.0, 0.0, 1.0]),
        logprobs=source.choice([None, None, 0]),
    )


def random_shape(source: random.Random) -> Shape:
    page_size = source.choice([1, 2, 4])
    reach = -(-(WINDOW - 1) // page_size)
    seqs = source.choice([1, 2, 4, 8])
    return Shape(
        page_size=page_size,
        full=-(-CONTEXT // page_size) + source.choice([0, 1, 30 // page_size, 200]),
        window=(reach + 1) * source.randint(1, 8) + source.randrange(12),
        seqs=seqs,
        budget=source.choice([seqs, 12, 40]),
        caching=source.random() < 0.8,
    )


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_tokens_are_those_of_an_engine_that_waits(seed: int) -> None:
    source = random.Random(seed)
    jobs = {f"r{i}": random_job(source) for i in range(source.randint(1, 14))}
    plain = Engine.make(Shape(), pipelined=False)
    for name, job in jobs.items():
        plain.add(name, *job)
        plain.finish()  # each alone

    faults = source.choice([0.0, 0.0, 0.1])
    engine = Engine.make(random_shape(source), pipelined=True, faults=faults, seed=seed)
    waiting, live, aborted = list(jobs), [], []
    while waiting or (engine.core.has_work and source.random() < 0.95):
        what = source.random()
        if what < 0.3 and waiting:
            live.append(waiting.pop(0))
            engine.add(live[-1], *jobs[live[-1]])
        elif what < 0.34 and live:
            gone = live.pop(source.randrange(len(live)))
            engine.core.abort([gone])
            aborted.append(gone)
        elif what < 0.36:
            engine.core.reset_prefix_cache()
        elif engine.core.has_work:
            engine.step()
        engine.scheduler.check_invariants()
    engine.finish()
    for name in jobs:
        if name in aborted:
            assert engine.tokens[name] == plain.tokens[name][: len(engine.tokens[name])]
        else:
            assert engine.tokens[name] == plain.tokens[name]
            assert engine.ends[name] == plain.ends[name]


def free(count: int) -> SamplingParams:
    return SamplingParams(max_tokens=count, ignore_eos=True)


def test_all_but_the_first_step_of_a_sequence_are_started_ahead() -> None:
    engine = Engine.make(Shape(), pipelined=True)
    engine.add("a", [1, 2, 3], free(20))
    engine.finish()
    assert engine.core.stats.steps == engine.core.stats.generated_tokens == 20
    assert engine.runner.ahead == 19


def test_no_position_after_the_last_token_is_computed() -> None:
    engine = Engine.make(Shape(), pipelined=True)
    engine.add("a", [1, 2, 3], free(2))
    engine.step()
    assert engine.core.has_work
    engine.step()
    assert not engine.core.has_work
    assert engine.runner.ahead == 1


def test_newcomers_and_chunks_of_prompts_are_started_ahead() -> None:
    engine = Engine.make(Shape(budget=8), pipelined=True)
    engine.add("a", [1, 2, 3], free(20))
    engine.step()
    engine.add("long", [1] * 40, free(2))
    engine.finish()
    assert engine.runner.ahead == engine.core.stats.steps - 1


def test_nothing_is_left_when_all_are_aborted_in_flight() -> None:
    engine = Engine.make(Shape(), pipelined=True)
    for name in "abc":
        engine.add(name, [1, 2, 3], free(20))
    engine.step()
    assert engine.core._pipeline.busy
    engine.core.abort(["a", "b"])
    assert engine.core._pipeline.busy
    engine.core.abort(["c"])
    assert not engine.core.has_work
    engine.finish()


def test_a_step_is_forgotten_when_all_in_it_have_ended() -> None:
    engine = Engine.make(Shape(), pipelined=True)
    engine.add("a", [1, 2, 3], SamplingParams(stop_token_ids=tuple(range(VOCAB))))
    engine.step()
    assert engine.ends["a"][0] == "stop"
    assert engine.runner.ahead == 1
    assert not engine.core.has_work


def test_an_equal_prompt_waits_until_the_first_one_is_committed() -> None:
    engine = Engine.make(Shape(), pipelined=True)
    for name in "ab":
        engine.add(name, [1] * 21, free(9))
    engine.finish()
    assert engine.core.stats.cached_tokens == 20
    assert engine.tokens["a"] == engine.tokens["b"]


def test_an_id_can_be_used_again_while_its_step_is_in_flight() -> None:
    alone = Engine.make(Shape(), pipelined=False)
    alone.add("a", [2, 2], free(9))
    alone.finish()
    engine = Engine.make(Shape(), pipelined=True)
    engine.add("a", [1, 2, 3], free(20))
    engine.add("b", [3, 2, 1], free(20))
    engine.step()
    engine.core.abort(["a"])
    engine.add("a", [2, 2], free(9))
    engine.finish()
    assert engine.tokens["a"] == alone.tokens["a"]


def test_preemption_happens_with_nothing_in_flight() -> None:
    def run(*, pipelined: bool) -> Engine:
        engine = Engine.make(Shape(full=14, caching=False), pipelined=pipelined)
        for i in range(4):
            engine.add(str(i), [i % 4 + 1] * 5, free(40))
        engine.finish()
        return engine

    late, plain = run(pipelined=True), run(pipelined=False)
    assert late.tokens == plain.tokens
    assert late.core.stats.preemptions > 0
    assert late.runner.ahead > late.core.stats.steps // 2


@pytest.mark.parametrize("when", ["start", "sample", "finish"])
def test_a_step_that_breaks_is_run_again_one_by_one(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(broken: int | None) -> dict[str, list[int]]:
        engine = Engine.make(Shape(), pipelined=True)
        for i in range(4):
            engine.add(str(i), [i + 1] * 5, free(12))
        calls = 0
        works = getattr(engine.runner, when)

        def breaks(*args: object) -> object:
            nonlocal calls
            calls += 1
            if calls == broken:
                raise RuntimeError("once")
            return works(*args)

        monkeypatch.setattr(engine.runner, when, breaks)
        engine.finish()
        assert all(reason == "length" for reason, _ in engine.ends.values())
        return engine.tokens

    expected = run(None)
    for call in range(1, 6):
        assert run(call) == expected


def test_a_lost_device_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine.make(Shape(), pipelined=True)
    engine.add("a", [1], free(12))
    engine.step()

    def lost(*_: object) -> StepResult:
        raise torch.AcceleratorError("lost")

    monkeypatch.setattr(engine.runner, "finish", lost)
    with pytest.raises(torch.AcceleratorError):
        engine.step()
