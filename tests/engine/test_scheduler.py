"""What runs in a step, how requests end, and what is refused."""

from __future__ import annotations

import random

import pytest

from ossia.engine.kv_cache import CacheConfig
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.engine.step_plan import RequestOutput, StepPlan
from ossia.errors import ConfigError, ContextLengthExceeded, InvalidRequest
from ossia.sampling import SamplingParams

EOS = 9


def make_scheduler(
    *,
    seqs: int = 4,
    budget: int = 64,
    context: int = 256,
    full: int = 64,
    window_pages: int = 64,
    caching: bool = True,
) -> Scheduler:
    return Scheduler(
        SchedulerConfig(seqs, budget, context, (EOS,)),
        CacheConfig(4, full + 1, window_pages + 1, 8, caching),
    )


def step(scheduler: Scheduler, token: int = 1) -> list[RequestOutput]:
    """One step in which every sampling sequence gets `token`."""
    plan = scheduler.schedule()
    outputs = scheduler.commit(plan, [token] * len(plan.sampling))
    scheduler.check_invariants()
    return outputs


def shape(plan: StepPlan) -> list[tuple[str, int, int]]:
    """(request, first position, tokens) of every scheduled sequence."""
    return [(s.request.request_id, s.start, s.num_tokens) for s in plan.sequences]


def test_requests_are_admitted_in_the_order_they_came() -> None:
    scheduler = make_scheduler(seqs=2)
    for name in "abc":
        scheduler.add(name, [ord(name)] * 5, SamplingParams(max_tokens=2))
    assert [output.request_id for output in step(scheduler)] == ["a", "b"]
    step(scheduler)
    assert [output.request_id for output in step(scheduler)] == ["c"]


def test_a_request_that_is_not_ready_is_passed_and_keeps_its_place() -> None:
    scheduler = make_scheduler(seqs=1)
    scheduler.add("late", [1] * 5, SamplingParams(max_tokens=2), constrained=True)
    for name in "ab":
        scheduler.add(name, [ord(name)] * 5, SamplingParams(max_tokens=2))
    assert [output.request_id for output in step(scheduler)] == ["a"]
    scheduler.set_ready("late")
    scheduler.set_ready("unknown")
    step(scheduler)
    assert [output.request_id for output in step(scheduler)] == ["late"]
    step(scheduler)
    assert [output.request_id for output in step(scheduler)] == ["b"]


def test_a_step_in_which_nobody_is_ready_is_empty() -> None:
    scheduler = make_scheduler()
    scheduler.add("late", [1] * 5, SamplingParams(max_tokens=2), constrained=True)
    plan = scheduler.schedule()
    assert plan.sequences == ()
    assert scheduler.has_work
    scheduler.cancel(plan)
    assert scheduler.stats().waiting == 1
    scheduler.abort(["late"])
    assert not scheduler.has_work


def test_a_stop_token_that_a_grammar_forces_stops_before_min_tokens() -> None:
    scheduler = make_scheduler()
    params = SamplingParams(max_tokens=9, min_tokens=5)
    scheduler.add("held", [1] * 5, params, constrained=True)
    scheduler.add("free", [2] * 5, params)
    scheduler.set_ready("held")
    assert [output.finish_reason for output in step(scheduler, EOS)] == ["stop", None]


def test_a_long_prompt_takes_what_decodes_leave_of_the_budget() -> None:
    scheduler = make_scheduler(budget=10)
    scheduler.add("a", [1, 2, 3], SamplingParams(max_tokens=20))
    step(scheduler)
    scheduler.add("long", list(range(25)), SamplingParams(max_tokens=20))
    plans = []
    for _ in range(4):
        plan = scheduler.schedule()
        plans.append(shape(plan))
        scheduler.commit(plan, [1] * len(plan.sampling))
    assert plans == [
        [("a", 3, 1), ("long", 0, 9)],
        [("a", 4, 1), ("long", 9, 9)],
        [("a", 5, 1), ("long", 18, 7)],
        [("a", 6, 1), ("long", 25, 1)],
    ]


def test_only_the_last_chunk_of_a_prompt_samples() -> None:
    scheduler = make_scheduler(budget=10)
    scheduler.add("long", list(range(25)), SamplingParams(max_tokens=20))
    assert [len(step(scheduler)) for _ in range(4)] == [0, 0, 1, 1]


def test_prompts_under_way_come_before_waiting_ones() -> None:
    scheduler = make_scheduler(budget=10)
    scheduler.add("a", list(range(12)), SamplingParams())
    scheduler.add("b", list(range(50, 62)), SamplingParams())
    step(scheduler)
    assert shape(scheduler.schedule()) == [("a", 10, 2), ("b", 0, 8)]


def test_a_prompt_goes_on_even_if_decodes_fill_the_budget() -> None:
    scheduler = make_scheduler(seqs=8, budget=4)
    for name in "abcd":
        scheduler.add(name, [ord(name), 1, 2], SamplingParams(max_tokens=50))
    for _ in range(40):
        step(scheduler)
    assert all(request.num_generated > 0 for request in map(scheduler.get, "abcd"))


def test_the_window_pool_bounds_how_many_run_at_once() -> None:
    scheduler = make_scheduler(seqs=8, window_pages=7)  # 3 pages a sequence
    for name in "abc":
        scheduler.add(name, [ord(name)] * 9, SamplingParams(max_tokens=20))
    step(scheduler)
    assert scheduler.stats().running == 2
    assert scheduler.stats().waiting == 1


def test_a_chunk_is_shortened_to_the_window_pages_there_are() -> None:
    scheduler = make_scheduler(window_pages=5)
    scheduler.add("a", list(range(40)), SamplingParams())
    assert shape(scheduler.schedule()) == [("a", 0, 20)]


@pytest.mark.parametrize(
    ("params", "token", "reason", "generated"),
    [
        (SamplingParams(), EOS, "stop", 1),
        (SamplingParams(stop_token_ids=(5,)), 5, "stop", 1),
        (SamplingParams(stop_token_ids=(5,)), EOS, "stop", 1),
        (SamplingParams(ignore_eos=True, max_tokens=3), EOS, "length", 3),
        (SamplingParams(ignore_eos=True, stop_token_ids=(EOS,)), EOS, "stop", 1),
        (SamplingParams(max_tokens=3), 1, "length", 3),
        (SamplingParams(max_tokens=1), EOS, "stop", 1),
        (SamplingParams(min_tokens=4), EOS, "stop", 4),
        (SamplingParams(), 1, "length", 251),  # to the end of the context
        (SamplingParams(max_tokens=10**9), 1, "length", 251),
    ],
)
def test_a_request_ends_for_one_reason(
    params: SamplingParams, token: int, reason: str, generated: int
) -> None:
    scheduler = make_scheduler()
    request = scheduler.add("a", [1, 2, 3, 4, 5], params)
    outputs: list[RequestOutput] = []
    while scheduler.has_work:
        outputs += step(scheduler, token)
    assert request.generated == [token] * generated
    assert [t for output in outputs for t in output.token_ids] == request.generated
    assert [o.finish_reason for o in outputs] == [None] * (generated - 1) + [reason]
    assert request.finish_reason == reason


def test_a_prompt_that_leaves_no_room_for_an_answer_is_refused() -> None:
    scheduler = make_scheduler(context=64)
    with pytest.raises(ContextLengthExceeded, match=r"has 64 tokens.*at most 63"):
        scheduler.add("a", [1] * 64, SamplingParams())
    assert not scheduler.has_work
    scheduler.add("a", [1] * 63, SamplingParams())
    assert step(scheduler)[0].finish_reason == "length"


def test_an_empty_prompt_and_an_id_in_use_are_refused() -> None:
    scheduler = make_scheduler()
    with pytest.raises(InvalidRequest, match="at least one token"):
        scheduler.add("a", [], SamplingParams())
    scheduler.add("a", [1], SamplingParams())
    with pytest.raises(InvalidRequest, match="in use"):
        scheduler.add("a", [1], SamplingParams())


@pytest.mark.parametrize("token", [-1, 2**31])
def test_a_prompt_of_something_else_than_token_ids_is_refused(token: int) -> None:
    with pytest.raises(InvalidRequest, match="out of range"):
        make_scheduler().add("a", [1, token] * 9, SamplingParams())


def test_pools_too_small_for_the_context_are_refused_at_start() -> None:
    with pytest.raises(ConfigError, match=r"holds 60 tokens.*--max-model-len 64"):
        make_scheduler(context=64, full=15)
    make_scheduler(context=64, full=16)


@pytest.mark.parametrize("steps", [0, 1, 3, 6])
def test_an_aborted_request_leaves_no_page_behind(steps: int) -> None:
    scheduler = make_scheduler(budget=8, caching=False)
    request = scheduler.add("a", list(range(30)), SamplingParams())
    for _ in range(steps):
        step(scheduler)
    scheduler.abort(["a", "never heard of"])
    scheduler.check_invariants()
    assert request.finish_reason == "abort"
    assert not scheduler.has_work
    assert scheduler.stats().full_pages_used == scheduler.stats().window_pages_used == 0
    assert scheduler.cache.full.num_free == scheduler.cache.full.capacity


def test_a_request_aborted_while_its_step_runs_gets_no_output() -> None:
    scheduler = make_scheduler()
    scheduler.add("a", [1, 2, 3], SamplingParams())
    scheduler.add("b", [4, 5, 6], SamplingParams())
    plan = scheduler.schedule()
    scheduler.abort(["a"])
    assert plan.sequences[0].pages.full  # still there to build a batch from
    outputs = scheduler.commit(plan, [7, 8])
    scheduler.check_invariants()
    assert [(o.request_id, o.token_ids) for o in outputs] == [("b", [8])]


def test_an_id_can_be_used_again_while_its_aborted_step_runs() -> None:
    scheduler = make_scheduler()
    scheduler.add("a", [1, 2, 3], SamplingParams())
    plan = scheduler.schedule()
    scheduler.abort(["a"])
    scheduler.add("a", [4, 5, 6], SamplingParams())
    assert scheduler.commit(plan, [7]) == []
    scheduler.check_invariants()
    assert shape(scheduler.schedule()) == [("a", 0, 3)]


def test_an_error_ends_only_the_request_it_belongs_to() -> None:
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add(name, [ord(name)] * 9, SamplingParams(max_tokens=3))
    plan = scheduler.schedule()
    output = scheduler.finish_with_error("a", "Its logits are not finite.")
    assert output == RequestOutput("a", [], "error", 0, "Its logits are not finite.")
    assert [o.request_id for o in scheduler.commit(plan, [0, 1])] == ["b"]
    assert scheduler.finish_with_error("a", "Again.") is None
    assert step(scheduler)[0].request_id == "b"


def test_what_a_request_computed_before_its_error_is_not_reused() -> None:
    for fails in (False, True):
        scheduler = make_scheduler()
        scheduler.add("a", [5] * 9, SamplingParams())
        step(scheduler)
        if fails:
            scheduler.finish_with_error("a", "Its logits are not finite.")
        else:
            scheduler.abort(["a"])
        scheduler.add("again", [5] * 9, SamplingParams())
        assert step(scheduler)[0].cached_tokens == (0 if fails else 8)


def test_a_step_must_be_settled_before_the_next() -> None:
    scheduler = make_scheduler()
    scheduler.add("a", [1, 2, 3], SamplingParams())
    plan = scheduler.schedule()
    with pytest.raises(RuntimeError, match="neither committed nor cancelled"):
        scheduler.schedule()
    scheduler.commit(plan, [1])
    with pytest.raises(RuntimeError, match="not the one"):
        scheduler.commit(plan, [1])


@pytest.mark.parametrize("tokens", [[], [1, 2]])
def test_a_step_with_the_wrong_number_of_tokens_changes_nothing(tokens: list[int]) -> None:
    scheduler = make_scheduler()
    request = scheduler.add("a", [1, 2, 3], SamplingParams())
    plan = scheduler.schedule()
    with pytest.raises(ValueError, match="1 token"):
        scheduler.commit(plan, tokens)
    assert request.num_computed == 0
    assert [o.token_ids for o in scheduler.commit(plan, [5])] == [[5]]


def test_a_cancelled_step_is_planned_again() -> None:
    scheduler = make_scheduler(budget=24, window_pages=8)
    scheduler.add("a", list(range(40)), SamplingParams())
    plan = scheduler.schedule()
    scheduler.cancel(plan)
    scheduler.check_invariants()
    assert shape(scheduler.schedule()) == shape(plan)


def test_equal_prompts_at_once_are_computed_once() -> None:
    scheduler = make_scheduler()
    for name in "abc":
        scheduler.add(name, list(range(18)), SamplingParams(max_tokens=5))
    scheduler.add("other", [1, 2, 3], SamplingParams(max_tokens=5))
    plan = scheduler.schedule()
    assert shape(plan) == [("a", 0, 18), ("other", 0, 3)]
    scheduler.commit(plan, [1, 1])
    assert shape(scheduler.schedule())[2:] == [("b", 16, 2), ("c", 16, 2)]


def test_equal_prompts_are_computed_apart_without_a_cache() -> None:
    scheduler = make_scheduler(caching=False)
    for name in "ab":
        scheduler.add(name, list(range(18)), SamplingParams(max_tokens=5))
    assert shape(scheduler.schedule()) == [("a", 0, 18), ("b", 0, 18)]


def test_the_next_turn_starts_where_the_answer_ended() -> None:
    scheduler = make_scheduler()
    request = scheduler.add("a", list(range(10)), SamplingParams(max_tokens=12))
    while scheduler.has_work:
        step(scheduler)
    scheduler.add("b", [*request.tokens, 3, 4, 5], SamplingParams())
    assert shape(scheduler.schedule()) == [("b", 20, 5)]


def test_counters_and_gauges_tell_what_happened() -> None:
    scheduler = make_scheduler()
    for name in "ab":
        scheduler.add(name, list(range(18)), SamplingParams(max_tokens=3))
    assert scheduler.stats().waiting == 2
    step(scheduler)
    assert scheduler.stats().running == 1
    assert scheduler.stats().full_pages_used == 5
    while scheduler.has_work:
        step(scheduler)
    stats = scheduler.stats()
    assert (stats.running, stats.waiting) == (0, 0)
    assert (stats.full_pages_used, stats.window_pages_used) == (0, 0)
    assert (stats.full_pages_total, stats.window_pages_total) == (64, 64)
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (36, 16, 6)
    assert (stats.steps, stats.preemptions) == (4, 0)


def test_the_same_history_gives_the_same_plans() -> None:
    def plans() -> list[tuple[list[tuple[str, int, int]], list[list[int]]]]:
        rng = random.Random(3)
        scheduler = make_scheduler(budget=16, full=64)
        seen = []
        for number in range(120):
            if rng.random() < 0.5:
                prompt = [rng.randrange(3) for _ in range(rng.randrange(1, 40))]
                scheduler.add(f"r{number}", prompt, SamplingParams(max_tokens=20))
            plan = scheduler.schedule()
            seen.append((shape(plan), [list(s.pages.full) for s in plan.sequences]))
            scheduler.commit(plan, [rng.randrange(10) for _ in plan.sampling])
        return seen

    assert plans() == plans()


def test_a_decode_is_planned_ahead_at_the_position_of_its_unknown_token() -> None:
    scheduler = make_scheduler()
    request = scheduler.add("a", [1, 2, 3], SamplingParams(max_tokens=3))
    first = scheduler.schedule()
    second = scheduler.schedule(ahead=True)
    assert shape(first) == [("a", 0, 3)]
    assert shape(second) == [("a", 3, 1)]
    assert len(request.tokens) == 3
    assert len(scheduler.commit(first, [5])) == 1
    third = scheduler.schedule(ahead=True)
    assert shape(third) == [("a", 4, 1)]
    scheduler.commit(second, [6])
    last = scheduler.schedule(ahead=True)
    assert shape(last) == [], "the token under way is the last one"
    scheduler.cancel(last)
    assert [output.finish_reason for output in scheduler.commit(third, [7])] == ["length"]
    assert request.generated == [5, 6, 7]
    scheduler.check_invariants()


def test_a_request_that_ends_is_passed_over_in_the_step_ahead() -> None:
    scheduler = make_scheduler()
    scheduler.add("a", [1, 2, 3], SamplingParams())
    scheduler.add("b", [2, 2, 3], SamplingParams())
    first = scheduler.schedule()
    second = scheduler.schedule(ahead=True)
    outputs = scheduler.commit(first, [EOS, 1])
    assert [output.finish_reason for output in outputs] == ["stop", None]
    assert [output.request_id for output in scheduler.commit(second, [4, 4])] == ["b"]
    scheduler.check_invariants()


def test_chunks_and_newcomers_are_planned_ahead() -> None:
    scheduler = make_scheduler(budget=10)
    scheduler.add("a", list(range(12)), SamplingParams())
    scheduler.add("b", [7] * 5, SamplingParams())
    assert shape(scheduler.schedule()) == [("a", 0, 10)]
    assert shape(scheduler.schedule(ahead=True)) == [("a", 10, 2), ("b", 0, 5)]


def test_two_steps_are_settled_in_order() -> None:
    scheduler = make_scheduler()
    scheduler.add("a", [1, 2, 3], SamplingParams())
    with pytest.raises(RuntimeError, match="no step to plan ahead of"):
        scheduler.schedule(ahead=True)
    first = scheduler.schedule()
    second = scheduler.schedule(ahead=True)
    for ahead in (False, True):
        with pytest.raises(RuntimeError, match="neither committed nor cancelled"):
            scheduler.schedule(ahead=ahead)
    with pytest.raises(RuntimeError, match="not the one"):
        scheduler.commit(second, [1])
    with pytest.raises(RuntimeError, match="not the one"):
        scheduler.cancel(first)
    scheduler.cancel(second)
    scheduler.cancel(first)
    assert shape(scheduler.schedule()) == [("a", 0, 3)]


def test_a_decode_without_a_window_page_sits_one_step_out() -> None:
    scheduler = make_scheduler(window_pages=3, seqs=1)  # what one sequence holds between steps
    scheduler.add("a", [1] * 11, SamplingParams())
    step(scheduler)
    first = scheduler.schedule()  # position 11, the last one of the third page
    second = scheduler.schedule(ahead=True)
    assert shape(first) == [("a", 11, 1)]
    assert second.sequences == ()
    scheduler.cancel(second)
    scheduler.commit(first, [1])
    assert shape(scheduler.schedule()) == [("a", 12, 1)]
