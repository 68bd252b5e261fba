"""What the engine asks of the thing that runs steps on a device.

A step is started, sampled and finished. A runner that is not `pipelined` (a CPU) gets these calls
one after the other, one step at a time. A pipelined one gets them interleaved, so that its queue
always holds the network of a step:

    flight = runner.start(plan n)
    repeat:
        runner.sample(flight n)          # the host knows all tokens of step n - 1
        next = runner.start(plan n + 1)  # the host does not know the tokens of step n
        runner.finish(flight n)          # now it does

At most two flights are out at once, and the device runs what is enqueued in the order of the calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from ossia.engine.mask_worker import MaskWorker
from ossia.engine.messages import TokenLogprobs
from ossia.engine.sampling_state import SamplingState
from ossia.engine.step_plan import ScheduledSequence

Flight = TypeVar("Flight")  # what a runner remembers of a step under way; its own business


@dataclass(frozen=True, slots=True)
class StepResult:
    """What was sampled in a step, by row: the place among the sequences that sample."""

    tokens: list[int]  # one a row; anything where there is an error or nobody waits for it
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)  # of rows that asked
    errors: dict[int, str] = field(default_factory=dict)  # a sentence for each row without a token


class StepRunner(Protocol[Flight]):
    """Runs steps on one device.

    Where one of its methods raises, the engine drops the flight (if `start` returned one) and runs
    its sequences again, one at a time, with nothing else under way: a repeated step writes the same
    keys to the same places. torch.AcceleratorError ends the process instead.

    Attributes:
        pipelined: whether the next step may be started before the tokens of this one are known.
        model_seconds: time spent in, or waiting for, the network so far.
        masks: computes the masks of constrained sequences.
    """

    pipelined: bool
    model_seconds: float
    masks: MaskWorker

    def start(
        self, sequences: Sequence[ScheduledSequence], states: Sequence[SamplingState]
    ) -> Flight:
        """Enqueue the network of a step. At most one other flight is out, and that is sampled.

        Window tables may begin with pages that no token of this step sees: `commit` frees those of
        the other flight, a long chunk of a prompt perhaps, only later.

        Page tables may change as soon as this returns. Each running request has a seat, a number
        `request.seat` below the scheduler's `max_running`, and nobody else has it while it runs. A
        seat gets another owner only in a later step than the last one of the previous owner.

        Args:
            sequences: at least one. Tokens that the host does not know are those at positions
                `len(request.tokens)`: then num_tokens is 1, start is that position, and the token
                is what the other flight has sampled for the same request. It has to be an id that
                the network can take even if that row has an error or its request has ended.
            states: of the sequences that sample, in order. What they know of tokens is as old as
                `request.tokens`.
        """
        ...

    def sample(self, flight: Flight, states: Sequence[SamplingState | None]) -> None:
        """Enqueue the sampling of a step, and compute the masks that it needs.

        Args:
            flight: the one that is started and not sampled; no other is out.
            states: of the sequences that sample, in order, up to date: they know all tokens
                before the one to be sampled. None where the request has ended meanwhile, and
                nobody wants its token.
        """
        ...

    def finish(self, flight: Flight) -> StepResult:
        """Wait for the tokens of the oldest flight, which is sampled, and forget it."""
        ...

    def prepare_ahead(self) -> bool:
        """Use a moment without work for what would delay a later step; False if nothing is left.

        Takes some hundredths of a second at most. No flight is out.
        """
        ...

    def drop(self, flight: Flight) -> None:
        """Forget a flight whose tokens nobody wants; what is enqueued for it may still run.

        Called at most once for a flight, at any point, and for one whose `sample` or `finish` has
        raised too. If two flights are out, the younger one is dropped first.
        """
        ...
