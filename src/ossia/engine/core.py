"""The engine: requests in, tokens out, one step at a time, in one process.

    core = start_engine(config)  # engine/start.py
    core.add(Generate("a", prompt, params))
    while core.has_work:
        output = core.step()

Knows token ids only. A fault of one request ends that request and no other. Between two steps the
device may be busy with the second one; requests can come and go as they like.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any

import msgspec

from ossia.engine.checks import check_constraint
from ossia.engine.follower import Follower
from ossia.engine.grammars import GrammarError, Grammars
from ossia.engine.messages import (
    Chunk,
    EngineInfo,
    EngineStats,
    Generate,
    PhaseCut,
    StepOutput,
    TokenLogprobs,
)
from ossia.engine.pipeline import Done, Pipeline
from ossia.engine.randomness import derive_seed
from ossia.engine.request import Status
from ossia.engine.sampling_state import SamplingState
from ossia.engine.scheduler import Scheduler
from ossia.engine.step_plan import StepPlan
from ossia.engine.step_runner import StepRunner
from ossia.errors import RequestError

logger = logging.getLogger(__name__)

_SEED_MASK = 2**64 - 1
GRAMMAR_WAIT = 0.001  # seconds that a step with nothing to run waits for a grammar


class EngineCore:
    """A scheduler and a runner, and what sampling needs to know of each request.

    Attributes:
        info: what the engine turned out to be.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner[Any],
        grammars: Grammars,
        info: EngineInfo,
        seed: int,
    ) -> None:
        """`seed` is mixed with a request's number if the request brings no seed."""
        self.info = info
        self._scheduler = scheduler
        self._runner = runner
        self._grammars = grammars
        self._seed = seed
        self._added = 0
        self._states: dict[str, SamplingState] = {}
        self._pipeline = Pipeline(scheduler, runner, self._states)
        self._refused: list[Chunk] = []
        self._compiling: dict[str, Follower] = {}  # of requests that wait for their grammar
        self._constrained = 0
        self._cuts: dict[PhaseCut, int] = {"max_tokens": 0, "loop": 0}
        self._step_seconds = 0.0

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to say."""
        return self._scheduler.has_work or bool(self._refused) or self._pipeline.busy

    @property
    def stats(self) -> EngineStats:
        """Gauges and counters as of now."""
        return msgspec.structs.replace(
            self._scheduler.stats(),
            step_seconds=self._step_seconds,
            model_seconds=self._runner.model_seconds,
            constrained=self._constrained,
            compiling=len(self._compiling),
            grammars_compiled=self._grammars.compiled,
            grammar_compile_seconds=self._grammars.compile_seconds,
            masks_computed=self._runner.masks.computed,
            mask_wait_seconds=self._runner.masks.wait_seconds,
            cuts_by_limit=self._cuts["max_tokens"],
            cuts_by_loop=self._cuts["loop"],
        )

    def prepare_grammars(self) -> None:
        """Get ready for the first constraint, in a thread. Without this, that one waits for it."""
        self._grammars.prepare()

    def prepare_ahead(self) -> bool:
        """Call while there is no work: False if there is nothing left to prepare for later."""
        return self._runner.prepare_ahead()

    def add(self, message: Generate) -> None:
        """Queue a sequence. One that cannot run gets an error chunk in the next step."""
        request_id, params, constraint = message.request_id, message.params, message.constraint
        try:
            params.validate(self.info.vocab_size)
            check_constraint(constraint, params, self.info.vocab_size)
            request = self._scheduler.add(
                request_id, message.prompt, params, constrained=constraint is not None
            )
        except RequestError as error:
            self._refused.append(Chunk(request_id, [], None, "error", 0, error.message))
            return
        seed = derive_seed(self._seed, self._added) if params.seed is None else params.seed
        self._added += 1
        follower = None
        if constraint is not None:
            follower = self._compiling[request_id] = Follower(constraint, self._grammars)
            self._constrained += 1
        self._states[request_id] = SamplingState(
            params,
            seed=seed & _SEED_MASK,
            prompt=message.prompt,
            stop_token_ids=[t for t in sorted(request.stop_ids) if t < self.info.vocab_size],
            follower=follower,
        )

    def abort(self, request_ids: Iterable[str]) -> None:
        """Stop these sequences and return their pages; no chunk follows. Unknown ids are fine."""
        ids = list(request_ids)
        self._scheduler.abort(ids)
        for request_id in ids:
            self._states.pop(request_id, None)
            self._compiling.pop(request_id, None)
        self._pipeline.drop_unwanted()
        self._refused = [chunk for chunk in self._refused if chunk.request_id not in ids]

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self._scheduler.reset_prefix_cache()

    def step(self) -> StepOutput:
        """Run one step for all sequences that have their turn."""
        if self._compiling:
            self._admit_compiled()
        chunks, self._refused = self._refused, []
        if self._scheduler.has_work or self._pipeline.busy:
            chunks += self._step()
        return StepOutput(chunks, self.stats)

    def _admit_compiled(self) -> None:
        """Let requests run whose grammar is there; those whose grammar is wrong fail."""
        for request_id, follower in list(self._compiling.items()):
            if not follower.grammar.done():
                continue
            del self._compiling[request_id]
            error = follower.grammar.exception()
            if error is None:
                self._scheduler.set_ready(request_id)
                continue
            if isinstance(error, GrammarError):
                sentence = str(error)
            else:
                logger.error("Grammars cannot be used.", exc_info=error)
                sentence = (
                    f"Grammars cannot be used on this server ({type(error).__name__}); "
                    "its log says more."
                )
            self._scheduler.finish_with_error(request_id, sentence)
            del self._states[request_id]
            self._refused.append(Chunk(request_id, [], None, "error", 0, sentence))

    def _step(self) -> list[Chunk]:
        plan = self._pipeline.plan()
        if plan is None:
            # All wait for their grammars. Short, because whoever steps may have other requests.
            wait(
                [follower.grammar for follower in self._compiling.values()],
                timeout=GRAMMAR_WAIT,
                return_when=FIRST_COMPLETED,
            )
            return []
        started = time.perf_counter()
        chunks = self._commit(plan, self._pipeline.run(plan))
        self._pipeline.drop_unwanted()
        self._step_seconds += time.perf_counter() - started
        return chunks

    def _commit(self, plan: StepPlan, done: Done) -> list[Chunk]:
        """Give the tokens of a step to its requests; what is to be said of each."""
        result, failed = done.result, done.broken
        logprobs: dict[str, list[TokenLogprobs]] = {}
        if result.errors or result.logprobs:
            for row, item in enumerate(plan.sampling):
                if item.request.status is not Status.RUNNING:
                    continue
                if row in result.errors:
                    failed[item.request.request_id] = result.errors[row]
                if row in result.logprobs:
                    logprobs[item.request.request_id] = [result.logprobs[row]]
        chunks = []
        for request_id, sentence in failed.items():
            ended = self._scheduler.finish_with_error(request_id, sentence)
            self._states.pop(request_id, None)
            if ended is not None:
                chunks.append(Chunk(request_id, [], None, "error", ended.cached_tokens, sentence))
        for output in self._scheduler.commit(plan, result.tokens):
            request_id, tokens, reason, cached, error = output
            cut: PhaseCut | None = None
            if reason is None:
                state = self._states[request_id]
                for token in tokens:
                    cut = state.record(token)
                if state.is_endless:
                    reason = self._scheduler.finish_early(output, "loop").finish_reason
                if cut is not None:
                    self._cuts[cut] += 1
            if reason is not None:
                del self._states[request_id]
            chunks.append(
                Chunk(request_id, tokens, logprobs.get(request_id), reason, cached, error, cut)
            )
        return chunks
