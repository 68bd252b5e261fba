"""Runs planned steps, one ahead of the other where the device can do that.

With a pipelined runner the device never waits for the host: while it computes step n, its sampling
and step n + 1 are enqueued behind that, and only then are the tokens of n looked at.

    plan = pipeline.plan()
    done = pipeline.run(plan)      # starts the next step too
    scheduler.commit(plan, ...)
    pipeline.drop_unwanted()       # if everybody in the next step has ended
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ossia.engine.request import Status
from ossia.engine.sampling_state import SamplingState
from ossia.engine.scheduler import Scheduler
from ossia.engine.step_plan import ScheduledSequence, StepPlan
from ossia.engine.step_runner import StepResult, StepRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a step."""

    result: StepResult
    broken: dict[str, str] = field(default_factory=dict)  # request id: sentence; not in `result`


class Pipeline:
    """The steps between a scheduler and a runner. At most one is under way between two calls."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: StepRunner[Any],
        states: Mapping[str, SamplingState],
    ) -> None:
        """`states` are those of all requests, by their ids; kept up to date by the caller."""
        self._scheduler = scheduler
        self._runner = runner
        self._states = states
        self._ahead: tuple[StepPlan, Any] | None = None  # with its flight; not sampled

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self._ahead is not None

    def plan(self) -> StepPlan | None:
        """The step that is under way, or a new one; None if nobody can run."""
        if self._ahead is not None:
            return self._ahead[0]
        plan = self._scheduler.schedule()
        if plan.sequences:
            return plan
        self._scheduler.cancel(plan)
        return None

    def run(self, plan: StepPlan) -> Done:
        """The results of a step, which is left to be committed. The next one may be under way then.

        When the whole batch breaks, each sequence runs alone, so that only the culprit fails. That
        is safe: a repeated step writes the same keys to the same slots.

        Raises:
            torch.AcceleratorError: the device is lost, and the process with it.
        """
        flight = None
        if self._ahead is not None:
            flight, self._ahead = self._ahead[1], None
        try:
            if flight is None:
                flight = self._runner.start(plan.sequences, self._live_states(plan))
            self._runner.sample(flight, self._states_of(plan.sequences))
            if self._runner.pipelined:
                self._start_next()
            return Done(self._runner.finish(flight))
        except torch.AcceleratorError:
            raise
        except Exception as error:
            self._drop_ahead()
            if flight is not None:
                self._runner.drop(flight)
            if len(plan.sequences) == 1 and not self._runner.pipelined:
                item = plan.sequences[0]
                return Done(StepResult([-1] * item.samples), {_id(item): _sentence(item, error)})
            return self._run_apart(plan)

    def drop_unwanted(self) -> None:
        """Forget the step under way if all its requests have ended."""
        if self._ahead is not None and not any(
            item.request.status is Status.RUNNING for item in self._ahead[0].sequences
        ):
            self._drop_ahead()

    def _start_next(self) -> None:
        """Start the step after the one that was just sampled, as far as it can be known."""
        plan = self._scheduler.schedule(ahead=True)
        if not plan.sequences:
            self._scheduler.cancel(plan)
            return
        try:
            flight = self._runner.start(plan.sequences, self._live_states(plan))
        except torch.AcceleratorError:
            raise
        except Exception:
            # It will be planned again with nothing else under way, and tell who is to blame.
            logger.warning("A step could not be started ahead.", exc_info=True)
            self._scheduler.cancel(plan)
            return
        self._ahead = plan, flight

    def _drop_ahead(self) -> None:
        if self._ahead is not None:
            plan, flight = self._ahead
            self._ahead = None
            self._runner.drop(flight)
            self._scheduler.cancel(plan)

    def _run_apart(self, plan: StepPlan) -> Done:
        done = Done(StepResult([]))
        result, broken = done.result, done.broken
        for item in plan.sequences:
            row = len(result.tokens)
            token = -1
            if item.request.status is Status.RUNNING:
                try:
                    one = self._run_alone(item)
                except torch.AcceleratorError:
                    raise
                except Exception as error:
                    broken[_id(item)] = _sentence(item, error)
                else:
                    if item.samples:
                        token = one.tokens[0]
                    result.logprobs.update((row, found) for found in one.logprobs.values())
                    result.errors.update((row, sentence) for sentence in one.errors.values())
            if item.samples:
                result.tokens.append(token)
        return done

    def _run_alone(self, item: ScheduledSequence) -> StepResult:
        states = self._states_of((item,))
        flight = self._runner.start((item,), [state for state in states if state is not None])
        try:
            self._runner.sample(flight, states)
            return self._runner.finish(flight)
        except torch.AcceleratorError:
            raise
        except Exception:
            self._runner.drop(flight)
            raise

    def _states_of(self, sequences: Sequence[ScheduledSequence]) -> list[SamplingState | None]:
        """Of those that sample. By then the id of one that ended may belong to another request."""
        states, running = self._states, Status.RUNNING
        return [
            states[item.request.request_id] if item.request.status is running else None
            for item in sequences
            if item.samples
        ]

    def _live_states(self, plan: StepPlan) -> list[SamplingState]:
        """Of those that sample in a plan that was just made, so that all of them run."""
        states = self._states
        return [states[item.request.request_id] for item in plan.sequences if item.samples]


def _id(item: ScheduledSequence) -> str:
    return item.request.request_id


def _sentence(item: ScheduledSequence, error: Exception) -> str:
    logger.error("Request %s failed in the network.", _id(item), exc_info=error)
    return (
        f"The engine failed on this request ({type(error).__name__}); the server's log says more."
    )
