"""When the full pool runs out: who gives way, and that nothing of it shows in the answers."""

from __future__ import annotations

from ossia.engine.kv_cache import CacheConfig
from ossia.engine.request import Status
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.sampling import SamplingParams


def make_scheduler(*, full: int, budget: int = 64, caching: bool = True) -> Scheduler:
    """Pages of 4 tokens, contexts of at most 40."""
    return Scheduler(SchedulerConfig(8, budget, 40, ()), CacheConfig(4, full + 1, 65, 8, caching))


def step(scheduler: Scheduler) -> list[str]:
    """One step whose tokens tell the position; the requests that ran."""
    assert scheduler.has_work
    plan = scheduler.schedule()
    scheduler.commit(plan, [len(s.request.tokens) for s in plan.sampling])
    scheduler.check_invariants()
    return [s.request.request_id for s in plan.sequences]


def test_the_youngest_gives_its_pages_back_and_keeps_its_tokens() -> None:
    scheduler = make_scheduler(full=10, caching=False)
    old = scheduler.add("old", [1] * 15, SamplingParams())
    young = scheduler.add("young", [2] * 14, SamplingParams())
    while not scheduler.stats().preemptions:
        step(scheduler)
    assert old.status is Status.RUNNING
    assert young.status is Status.WAITING
    assert young.pages is None
    assert young.generated == list(range(14, 14 + young.num_generated))
    assert young.num_generated > 0


def test_a_preempted_request_goes_on_with_its_next_token() -> None:
    scheduler = make_scheduler(full=10)
    requests = [scheduler.add(n, [ord(n)] * 15, SamplingParams()) for n in "abc"]
    while scheduler.has_work:
        step(scheduler)
    assert scheduler.stats().preemptions > 0
    for request in requests:
        assert request.generated == list(range(15, 40))
        assert request.finish_reason == "length"
        assert request.cached_tokens == 0  # what it found of its own after a preemption is no hit
    assert scheduler.stats().prompt_tokens == 45
    assert scheduler.stats().generated_tokens == 75


def test_a_preempted_request_comes_before_younger_ones() -> None:
    scheduler = make_scheduler(full=10)
    scheduler.add("a", [1] * 15, SamplingParams())
    scheduler.add("b", [2] * 15, SamplingParams())
    while not scheduler.stats().preemptions:
        step(scheduler)
    scheduler.add("c", [3], SamplingParams(max_tokens=1))
    ran: list[str] = []
    while scheduler.has_work:
        ran += step(scheduler)
    assert ran.index("b") < ran.index("c")


def test_a_newcomer_waits_until_those_who_run_have_a_page_each_to_grow() -> None:
    scheduler = make_scheduler(full=10, caching=False)
    scheduler.add("a", [1] * 16, SamplingParams(max_tokens=4))
    scheduler.add("b", [2] * 16, SamplingParams(max_tokens=4))
    scheduler.add("c", [3] * 4, SamplingParams(max_tokens=4))
    assert step(scheduler) == ["a", "b"]  # 8 pages; one for c would leave one for two to grow
    while scheduler.has_work:
        step(scheduler)
    assert scheduler.stats().preemptions == 0


def test_cached_pages_are_evicted_before_anyone_is_preempted() -> None:
    scheduler = make_scheduler(full=10)
    scheduler.add("a", [1] * 30, SamplingParams(max_tokens=2))
    while scheduler.has_work:
        step(scheduler)
    assert scheduler.cache.full.num_cached == 7
    scheduler.add("b", [2] * 30, SamplingParams())
    while scheduler.has_work:
        step(scheduler)
    assert scheduler.stats().preemptions == 0


def test_a_preempted_request_finds_its_own_pages_if_they_were_not_needed() -> None:
    scheduler = make_scheduler(full=18)
    for name in "abc":
        scheduler.add(name, [ord(name)] * 18, SamplingParams(max_tokens=12))
    while not scheduler.stats().preemptions:
        step(scheduler)
    (victim,) = (r for r in map(scheduler.get, "abc") if r and r.status is Status.WAITING)
    while victim.status is not Status.RUNNING:
        step(scheduler)
    assert victim.pages is not None
    assert victim.pages.full_write_start > 0


def test_a_request_aborted_while_preempted_is_gone() -> None:
    scheduler = make_scheduler(full=10)
    scheduler.add("a", [1] * 15, SamplingParams())
    scheduler.add("b", [2] * 15, SamplingParams())
    while not scheduler.stats().preemptions:
        step(scheduler)
    scheduler.abort(["b"])
    scheduler.check_invariants()
    assert scheduler.stats().waiting == 0
    while scheduler.has_work:
        assert step(scheduler) == ["a"]


def test_nobody_is_preempted_while_a_step_is_under_way() -> None:
    scheduler = make_scheduler(full=10, caching=False)
    for name in "ab":
        scheduler.add(name, [ord(name)] * 15, SamplingParams())
    refused = 0
    while not scheduler.stats().preemptions:
        plan = scheduler.schedule()
        preempted = scheduler.stats().preemptions
        ahead = scheduler.schedule(ahead=True)
        assert scheduler.stats().preemptions == preempted
        refused += not ahead.sequences
        scheduler.cancel(ahead)
        scheduler.commit(plan, [1] * len(plan.sampling))
        scheduler.check_invariants()
    assert refused == 1, "the whole step waits until pages can be taken"


def test_a_request_as_long_as_the_pool_ends_alone() -> None:
    scheduler = make_scheduler(full=10, budget=7)
    requests = [scheduler.add(str(i), [i] * 39, SamplingParams()) for i in range(5)]
    for _ in range(200):
        if not scheduler.has_work:
            break
        step(scheduler)
    assert [r.finish_reason for r in requests] == ["length"] * 5
