"""Which tokens of which requests run in the next step. Pure Python, deterministic, no clock.

First come, first served. A step gives one token to every decoding request, then what is left of
its token budget to prompts under way, oldest first, then to waiting requests that are ready: one
with a grammar is not before that is compiled, and younger ones may pass it. When the full pool
runs out, the youngest running request gives its pages back and waits to be computed again.

    plan = scheduler.schedule()
    tokens = run(plan)                    # one sampled token for each of plan.sampling
    outputs = scheduler.commit(plan, tokens)

One more step can be planned while the tokens of the last one are not known yet. Whoever sampled
there goes on with its next position, unless its token is sure to be its last:

    plan = scheduler.schedule()
    start(plan)
    ahead = scheduler.schedule(ahead=True)
    start(ahead)                          # the device knows the tokens of `plan`
    outputs = scheduler.commit(plan, tokens_of(plan))

Who ends with `plan`, or is aborted meanwhile, leaves a useless part in `ahead`, and its pages may
get other owners before that has run. Nothing is corrupted, because steps run one after the other:
 - Where the useless part writes, at positions from num_computed on, no page is in the prefix cache:
   only pages that end at or before num_computed are published or kept as tails.
 - A new owner gets the page in a plan that is made later, so it writes after the useless part did,
   and a sequence reads only what it wrote itself or what was published.
 - What the useless part reads may be anything, but nobody takes its token.
Window pages that `commit` frees are those that no query at or after num_computed sees, and the
steps under way compute positions from there on.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from ossia.engine.kv_cache import CacheConfig, KVCache
from ossia.engine.messages import EngineStats, FinishReason
from ossia.engine.request import Request, Status, check_prompt, finish_reason_of, prompt_key
from ossia.engine.step_plan import RequestOutput, ScheduledSequence, StepPlan
from ossia.errors import ConfigError, InvalidRequest
from ossia.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """Limits of a step and of a request."""

    max_num_seqs: int  # sequences running at once
    max_num_batched_tokens: int  # tokens in one step
    max_model_len: int  # tokens of prompt and answer together
    eos_token_ids: tuple[int, ...]  # stop a request unless it ignores them


class Scheduler:
    """Owns every request from `add` until it is finished, and the pages they hold."""

    def __init__(self, config: SchedulerConfig, cache: CacheConfig) -> None:
        """
        Raises:
            ConfigError: the pools cannot hold one request of max_model_len tokens.
        """
        self.config = config
        self.cache = KVCache(cache)
        needed = self.cache.pages_for(config.max_model_len)
        if needed > self.cache.full.capacity:
            raise ConfigError(
                f"The KV cache holds {self.cache.full.capacity * cache.page_size} tokens, less "
                f"than --max-model-len {config.max_model_len}; lower --max-model-len or raise "
                "--kv-cache-memory."
            )
        # Every running sequence can then hold its window and compute one token in each step.
        self.max_running = min(
            config.max_num_seqs,
            config.max_num_batched_tokens,
            self.cache.window.capacity // cache.window_pages_per_sequence,
        )
        self._eos = frozenset(config.eos_token_ids)
        self._requests: dict[str, Request] = {}
        self._waiting: list[Request] = []  # oldest first
        self._running: list[Request] = []  # oldest first
        self._seats = list(range(self.max_running - 1, -1, -1))  # free ones
        self._outstanding: list[StepPlan] = []  # at most two, the older first
        self._arrivals = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0
        self._preemptions = 0
        self._steps = 0

    @property
    def has_work(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self._requests)

    def get(self, request_id: str) -> Request | None:
        """The request of this id, unless it is finished."""
        return self._requests.get(request_id)

    def add(
        self,
        request_id: str,
        prompt: list[int],
        params: SamplingParams,
        *,
        constrained: bool = False,
    ) -> Request:
        """Put a request at the end of the queue. A constrained one waits for `set_ready`.

        Raises:
            InvalidRequest: the prompt is empty or not of token ids, or the request's id is in use.
            ContextLengthExceeded: the prompt leaves no room for an answer.
        """
        limit = self.config.max_model_len
        check_prompt(prompt, limit)
        if request_id in self._requests:
            raise InvalidRequest(f"The request id {request_id!r} is in use.", param="request_id")
        room = limit - len(prompt)
        boundary = self.cache.turn_boundary(len(prompt))
        stop_ids = frozenset(params.stop_token_ids)
        request = Request(
            request_id,
            prompt,
            params,
            arrival=self._arrivals,
            max_tokens=room if params.max_tokens is None else min(params.max_tokens, room),
            stop_ids=stop_ids if params.ignore_eos else stop_ids | self._eos,
            turn_boundary=boundary,
            prompt_key=prompt_key(prompt[:boundary]),
            constrained=constrained,
        )
        self._arrivals += 1
        self._requests[request_id] = request
        self._waiting.append(request)
        return request

    def set_ready(self, request_id: str) -> None:
        """The grammar of this request is compiled; an unknown id is ignored."""
        request = self._requests.get(request_id)
        if request is not None:
            request.ready = True

    def abort(self, request_ids: Iterable[str]) -> None:
        """End these requests now, wherever they stand; unknown ids are ignored.

        A step under way may include them: `commit` then passes over them.
        """
        for request_id in request_ids:
            request = self._requests.get(request_id)
            if request is not None:
                self._finish(request, "abort")

    def finish_with_error(self, request_id: str, message: str) -> RequestOutput | None:
        """End one request because of a fault; None if it is finished already.

        Its pages are not cached, since what is in them may be the cause.
        """
        request = self._requests.get(request_id)
        if request is None:
            return None
        request.error = message
        self._finish(request, "error", keep=False)
        return RequestOutput(request_id, [], "error", max(0, request.cached_tokens), message)

    def finish_early(self, output: RequestOutput, reason: FinishReason) -> RequestOutput:
        """End a request that would go on after this output, which ends with `reason` now."""
        self._finish(self._requests[output.request_id], reason)
        return output._replace(finish_reason=reason)

    def schedule(self, *, ahead: bool = False) -> StepPlan:
        """Plan the next step. Empty only if there is no work, or none is ready.

        With `ahead`, plan a step to follow the outstanding one. That takes pages from nobody: where
        it would have to, the plan is empty, as it is where all have to wait for their tokens.

        Raises:
            RuntimeError: a previous plan was neither committed nor cancelled; with `ahead`, there
                is not exactly one such plan.
        """
        if len(self._outstanding) > int(ahead):
            raise RuntimeError("A previous step was neither committed nor cancelled.")
        if ahead and not self._outstanding:
            raise RuntimeError("There is no step to plan ahead of.")
        items: list[ScheduledSequence] = []
        budget = self.config.max_num_batched_tokens
        if self._schedule_decodes(items, ahead=ahead):
            budget -= len(items)
            budget -= self._schedule_prefills(items, budget)
            if self._waiting:
                budget -= self._admit(items, budget)
        plan = StepPlan(tuple(items), self.config.max_num_batched_tokens - budget)
        self._outstanding.append(plan)
        return plan

    def commit(self, plan: StepPlan, tokens: Sequence[int]) -> list[RequestOutput]:
        """Apply the results of the oldest step: `tokens[i]` was sampled for `plan.sampling[i]`.

        Requests that ended since `schedule` are passed over, whatever was sampled for them.

        Raises:
            RuntimeError: the plan is not the oldest outstanding one.
            ValueError: there are not as many tokens as sampling sequences.
        """
        wanted = sum([item.samples for item in plan.sequences])
        if len(tokens) != wanted:
            raise ValueError(f"The step samples {wanted} token(s); {len(tokens)} were given.")
        self._settle(plan, 0)
        sampled = iter(tokens)
        outputs: list[RequestOutput] = []
        page_size = self.cache.config.page_size
        for request, pages, start, count, samples in plan.sequences:
            token = next(sampled) if samples else -1
            if request.status is not Status.RUNNING:
                continue
            end = start + count
            if count > 1 or end % page_size == 0:
                self.cache.advance(pages, request.tokens, start, end)
            request.num_computed = end
            if samples:
                outputs.append(self._append(request, token))
        self._steps += 1
        return outputs

    def cancel(self, plan: StepPlan) -> None:
        """Drop the youngest plan; the next one covers the same tokens again.

        If a runner has started it, the positions are computed twice, which changes nothing.

        Raises:
            RuntimeError: the plan is not the youngest outstanding one.
        """
        self._settle(plan, -1)
        self._take_back(plan.sequences)

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self.cache.reset_prefix_cache()

    def stats(self) -> EngineStats:
        """Gauges and counters; the times are left to whoever runs the steps."""
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            full_pages_used=self.cache.full.in_use,
            full_pages_total=self.cache.full.capacity,
            window_pages_used=self.cache.window.in_use,
            window_pages_total=self.cache.window.capacity,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            generated_tokens=self._generated_tokens,
            preemptions=self._preemptions,
            steps=self._steps,
        )

    def check_invariants(self) -> None:
        """Raise AssertionError if requests, pages and counts disagree. For tests."""
        by_arrival = attrgetter("arrival")
        assert sorted(self._waiting, key=by_arrival) == self._waiting
        assert sorted(self._running, key=by_arrival) == self._running
        assert len(self._waiting) + len(self._running) == len(self._requests)
        assert len(self._running) <= self.max_running
        for request in self._waiting:
            assert request.status is Status.WAITING
            assert request.pages is None
        held = []
        for request in self._running:
            assert request.status is Status.RUNNING
            assert request.ready
            assert request.pages is not None
            assert request.num_computed < len(request.tokens)
            steps = len(self._outstanding)
            assert steps or request.num_scheduled == request.num_computed
            assert request.num_computed <= request.num_scheduled < len(request.tokens) + steps
            held.append((request.pages, request.num_computed))
        seats = [request.seat for request in self._running]
        assert sorted(seats + self._seats) == list(range(self.max_running))
        self.cache.check_invariants(held, between_steps=not self._outstanding)

    def _schedule_decodes(self, items: list[ScheduledSequence], *, ahead: bool) -> bool:
        """One token for each request that has one to compute; preempts until their pages fit.

        `ahead`, nobody is preempted: False, and no items, if somebody would have to be.
        """
        index = 0
        running = self._running
        cache = self.cache
        page_size = cache.config.page_size
        while index < len(running):
            request = running[index]
            index += 1
            start = request.num_scheduled
            # The last token is at start, or it is the one that the outstanding step samples.
            if len(request.tokens) - start > 1 or start + 1 >= request.max_len:
                continue
            pages = request.pages
            assert pages is not None
            if start % page_size == 0:
                if ahead:
                    if cache.room(pages, start) < 1:
                        continue  # a window page comes free when the outstanding step is committed
                    if not cache.extend(pages, start + 1):
                        self._take_back(items)
                        items.clear()
                        return False
                else:
                    while (
                        not cache.extend(pages, start + 1)
                        and self._preempt_youngest() is not request
                    ):
                        pass
                    if request.status is not Status.RUNNING:
                        break
            request.num_scheduled = start + 1
            items.append(ScheduledSequence(request, pages, start, 1, True))
        return True

    def _take_back(self, items: Sequence[ScheduledSequence]) -> None:
        """What was planned last is not done: its requests stand where it starts."""
        for item in items:
            if item.request.status is Status.RUNNING:
                item.request.num_scheduled = item.start
                self.cache.trim(item.pages, item.start)

    def _preempt_youngest(self) -> Request:
        """Take all pages of the youngest running request, which waits again in arrival order."""
        request = self._running.pop()
        self._release(request)
        request.status = Status.WAITING
        insort(self._waiting, request, key=attrgetter("arrival"))
        self._preemptions += 1
        return request

    def _schedule_prefills(self, items: list[ScheduledSequence], budget: int) -> int:
        """As many tokens of prompts under way as the budget and the window pool allow."""
        used = 0
        for request in self._running:
            if used == budget:
                break
            if len(request.tokens) - request.num_scheduled > 1:
                used += self._schedule_chunk(items, request, budget - used)
        return used

    def _schedule_chunk(self, items: list[ScheduledSequence], request: Request, budget: int) -> int:
        pages = request.pages
        assert pages is not None
        start = request.num_scheduled
        left = len(request.tokens) - start
        count = min(left, budget, self.cache.room(pages, start))
        if count:
            extended = self.cache.extend(pages, start + count)
            assert extended, "a prompt's full pages are allocated when it is admitted"
            request.num_scheduled = start + count
            items.append(ScheduledSequence(request, pages, start, count, count == left))
        return count

    def _admit(self, items: list[ScheduledSequence], budget: int) -> int:
        """Start waiting requests, oldest first, while sequences, tokens and pages allow.

        One page for each running request is left free, or the newcomer would soon be preempted.
        A request whose prompt another one is computing right now waits to share the result, and
        younger ones may pass it.
        """
        used = 0
        index = 0
        computing = {
            request.prompt_key
            for request in self._running
            if request.num_computed < request.turn_boundary
        }
        while (
            index < len(self._waiting) and used < budget and len(self._running) < self.max_running
        ):
            request = self._waiting[index]
            if not request.ready or request.prompt_key in computing:
                index += 1
                continue
            spare = self.cache.full.available - len(self._running)
            if request.pages_wanted > spare:
                break
            match = self.cache.match(request.tokens)
            request.pages_wanted = match.pages_wanted
            if match.pages_wanted > spare or not self.cache.admits(match):
                break
            del self._waiting[index]
            request.pages = self.cache.start(request.tokens, match, request.turn_boundary)
            self._start(request, match.num_resumed * self.cache.config.page_size)
            if request.num_computed < request.turn_boundary:
                computing.add(request.prompt_key)
            used += self._schedule_chunk(items, request, budget - used)
        return used

    def _start(self, request: Request, num_resumed: int) -> None:
        request.status = Status.RUNNING
        request.num_computed = request.num_scheduled = num_resumed
        request.seat = self._seats.pop()
        insort(self._running, request, key=attrgetter("arrival"))
        if request.cached_tokens < 0:
            request.cached_tokens = num_resumed
            self._prompt_tokens += request.prompt_len
            self._cached_tokens += num_resumed

    def _append(self, request: Request, token: int) -> RequestOutput:
        request.tokens.append(token)
        self._generated_tokens += 1
        reason = finish_reason_of(request)
        if reason is not None:
            self._finish(request, reason)
        return RequestOutput(request.request_id, [token], reason, request.cached_tokens)

    def _finish(self, request: Request, reason: FinishReason, *, keep: bool = True) -> None:
        """The one way out: return the pages, forget the request."""
        if request.status is Status.RUNNING:
            self._running.remove(request)
            self._release(request, keep=keep)
        else:
            self._waiting.remove(request)
        request.status = Status.FINISHED
        request.finish_reason = reason
        del self._requests[request.request_id]

    def _release(self, request: Request, *, keep: bool = True) -> None:
        assert request.pages is not None
        self.cache.release(request.pages, request.tokens, request.num_computed, keep=keep)
        request.pages = None
        request.pages_wanted = 0
        request.num_computed = request.num_scheduled = 0
        self._seats.append(request.seat)

    def _settle(self, plan: StepPlan, place: int) -> None:
        if not self._outstanding or self._outstanding[place] is not plan:
            raise RuntimeError("This plan is not the one to be settled now.")
        del self._outstanding[place]
