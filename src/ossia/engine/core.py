"""The engine: requests in, tokens out, one step at a time. Synchronous and in one process.

    core = start_engine(config)  # engine/start.py
    core.add(Generate("a", prompt, params))
    while core.has_work:
        output = core.step()

Knows token ids only. A fault of one request ends that request and no other.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait

import msgspec
import torch

from ossia.engine.checks import check_constraint
from ossia.engine.follower import Follower
from ossia.engine.grammars import GrammarError, Grammars
from ossia.engine.messages import Chunk, EngineInfo, EngineStats, Generate, PhaseCut, StepOutput
from ossia.engine.randomness import derive_seed
from ossia.engine.runner import Runner
from ossia.engine.sampler import Sampled
from ossia.engine.sampling_state import SamplingState
from ossia.engine.scheduler import Scheduler
from ossia.engine.step_plan import ScheduledSequence, StepPlan
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
        runner: Runner,
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
        self._refused: list[Chunk] = []
        self._compiling: dict[str, Follower] = {}  # of requests that wait for their grammar
        self._constrained = 0
        self._cuts: dict[PhaseCut, int] = {"max_tokens": 0, "loop": 0}
        self._step_seconds = 0.0

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to say."""
        return self._scheduler.has_work or bool(self._refused)

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
        self._refused = [chunk for chunk in self._refused if chunk.request_id not in ids]

    def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        self._scheduler.reset_prefix_cache()

    def step(self) -> StepOutput:
        """Run one step for all sequences that have their turn."""
        if self._compiling:
            self._admit_compiled()
        chunks, self._refused = self._refused, []
        if self._scheduler.has_work:
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
        plan = self._scheduler.schedule()
        if not plan.sequences:
            # All wait for their grammars. Short, because whoever steps may have other requests.
            self._scheduler.cancel(plan)
            wait(
                [follower.grammar for follower in self._compiling.values()],
                timeout=GRAMMAR_WAIT,
                return_when=FIRST_COMPLETED,
            )
            return []
        started = time.perf_counter()
        chunks = self._run_plan(plan)
        self._step_seconds += time.perf_counter() - started
        return chunks

    def _run_plan(self, plan: StepPlan) -> list[Chunk]:
        failed: dict[str, str] = {}
        results = self._run(plan.sequences, failed)
        for item, result in zip(plan.sampling, results, strict=True):
            if result.error is not None:
                failed[item.request.request_id] = result.error
        chunks = []
        for request_id, sentence in failed.items():
            output = self._scheduler.finish_with_error(request_id, sentence)
            self._states.pop(request_id, None)
            if output is not None:
                chunks.append(Chunk(request_id, [], None, "error", output.cached_tokens, sentence))
        logprobs = {
            item.request.request_id: result.logprobs
            for item, result in zip(plan.sampling, results, strict=True)
            if result.logprobs is not None
        }
        for output in self._scheduler.commit(plan, [result.token for result in results]):
            found = logprobs.get(output.request_id)
            cut: PhaseCut | None = None
            if output.finish_reason is None:
                state = self._states[output.request_id]
                for token in output.token_ids:
                    cut = state.record(token)
                if state.is_endless:
                    output = self._scheduler.finish_early(output, "loop")
            if output.finish_reason is not None:
                del self._states[output.request_id]
            if cut is not None:
                self._cuts[cut] += 1
            chunks.append(
                Chunk(
                    output.request_id,
                    output.token_ids,
                    None if found is None else [found],
                    output.finish_reason,
                    output.cached_tokens,
                    output.error,
                    cut,
                )
            )
        return chunks

    def _run(self, sequences: Sequence[ScheduledSequence], failed: dict[str, str]) -> list[Sampled]:
        """Results of the sequences that sample; sentences for those that broke go to `failed`.

        When the whole batch breaks, each sequence runs alone, so that only the culprit fails. That
        is safe: a repeated step writes the same keys to the same slots.
        """
        try:
            return self._runner.run(sequences, self._states)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError):
                raise  # the device is lost, and the process with it
            if len(sequences) > 1:
                return [r for item in sequences for r in self._run((item,), failed)]
            item = sequences[0]
            logger.exception("Request %s failed in the network.", item.request.request_id)
            failed[item.request.request_id] = (
                f"The engine failed on this request ({type(error).__name__}); "
                "the server's log says more."
            )
            return [Sampled(-1)] if item.samples else []
