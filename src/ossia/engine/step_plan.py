"""What the scheduler says of a step: who runs in it, and what it added to each request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ossia.engine.kv_cache import SequencePages
from ossia.engine.messages import FinishReason
from ossia.engine.request import Request


class ScheduledSequence(NamedTuple):
    """The part of one request that runs in a step: tokens[start : start + num_tokens]."""

    request: Request
    pages: SequencePages  # own the keys of all positions below start + num_tokens
    start: int  # position of the first token
    num_tokens: int
    samples: bool  # whether a next token is wanted after the last one


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step. Build its batch before the scheduler is called again."""

    sequences: tuple[ScheduledSequence, ...]
    num_tokens: int

    @property
    def sampling(self) -> tuple[ScheduledSequence, ...]:
        """The sequences that want a next token, in order."""
        return tuple(item for item in self.sequences if item.samples)


class RequestOutput(NamedTuple):
    """What a step added to one request."""

    request_id: str
    token_ids: list[int]
    finish_reason: FinishReason | None
    cached_tokens: int  # prompt tokens found in the prefix cache
    error: str | None = None
