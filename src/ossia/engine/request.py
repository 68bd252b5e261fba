"""One request inside the engine: its tokens, how far it got, and when it is finished."""

from __future__ import annotations

import hashlib
from array import array
from enum import Enum, auto

from ossia.engine.kv_cache import SequencePages
from ossia.engine.messages import FinishReason
from ossia.errors import ContextLengthExceeded, InvalidRequest
from ossia.sampling import SamplingParams

MAX_TOKEN_ID = 2**31 - 1  # the prefix cache compares tokens as int32


class Status(Enum):
    """Where a request stands. Only the scheduler changes it."""

    WAITING = auto()  # holds no pages: new, or preempted
    RUNNING = auto()  # holds pages
    FINISHED = auto()  # left the scheduler


class Request:
    """The state of one sequence. Owned and changed by the scheduler alone; others only read.

    `tokens` are prompt and generated ids; the keys of the first `num_computed` of them are in the
    cache, and steps under way compute those up to `num_scheduled`, which may include a token that
    is not known yet. After a preemption both start again and generated tokens are fed like prompt.
    """

    __slots__ = (
        "arrival",
        "cached_tokens",
        "constrained",
        "error",
        "finish_reason",
        "max_len",
        "num_computed",
        "num_scheduled",
        "pages",
        "pages_wanted",
        "params",
        "prompt_key",
        "prompt_len",
        "ready",
        "request_id",
        "seat",
        "status",
        "stop_ids",
        "tokens",
        "turn_boundary",
    )

    def __init__(
        self,
        request_id: str,
        prompt: list[int],
        params: SamplingParams,
        *,
        arrival: int,
        max_tokens: int,
        stop_ids: frozenset[int],
        turn_boundary: int,
        prompt_key: bytes,
        constrained: bool = False,
    ) -> None:
        """`max_tokens` is already bounded by the context; `stop_ids` are all ids that stop it.

        A `constrained` request follows a grammar, and is ready when that is compiled.
        """
        self.request_id = request_id
        self.params = params
        self.tokens = list(prompt)
        self.prompt_len = len(prompt)
        self.max_len = len(prompt) + max(1, max_tokens)  # tokens, when it ends at the latest
        self.stop_ids = stop_ids
        self.arrival = arrival  # lower is older
        self.turn_boundary = turn_boundary  # position; equal prompts share what lies before it
        self.prompt_key = prompt_key  # names the tokens before the turn boundary
        self.status = Status.WAITING
        self.constrained = constrained
        self.ready = not constrained  # may start to run
        self.num_computed = 0  # tokens
        self.num_scheduled = 0  # tokens
        self.seat = -1  # of a running request: a small number that no other running one has
        self.cached_tokens = -1  # prompt tokens found in the prefix cache; -1 before admission
        self.pages: SequencePages | None = None
        self.pages_wanted = 0  # full pages that the last attempt to admit it lacked room for
        self.finish_reason: FinishReason | None = None
        self.error: str | None = None

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def generated(self) -> list[int]:
        """A copy of the ids generated so far."""
        return self.tokens[self.prompt_len :]

    def __repr__(self) -> str:
        return (
            f"Request({self.request_id!r}, {self.status.name}, "
            f"{self.num_computed}/{len(self.tokens)} tokens)"
        )


def check_prompt(prompt: list[int], max_model_len: int) -> None:
    """Refuse a prompt that can never run.

    Raises:
        InvalidRequest: it is empty, or something in it cannot be a token id.
        ContextLengthExceeded: it leaves no room for an answer.
    """
    if not prompt:
        raise InvalidRequest("The prompt must have at least one token.", param="prompt")
    if min(prompt) < 0 or max(prompt) > MAX_TOKEN_ID:
        raise InvalidRequest("The prompt has a token id out of range.", param="prompt")
    if len(prompt) >= max_model_len:
        raise ContextLengthExceeded(
            f"The prompt has {len(prompt)} tokens; this server takes at most {max_model_len - 1} "
            f"(a context of {max_model_len}, less one token to generate).",
            param="prompt",
        )


def prompt_key(tokens: list[int]) -> bytes:
    """Equal for equal tokens, and in effect only for those."""
    return hashlib.blake2b(array("i", tokens).tobytes(), digest_size=16).digest()


def finish_reason_of(request: Request) -> FinishReason | None:
    """Why a request that just got a token is finished; None while it goes on.

    The one place that decides between "stop" and "length". A stop token that was sampled before
    `min_tokens` (the sampler masks them) does not stop, unless a grammar allowed nothing else.
    """
    if request.tokens[-1] in request.stop_ids and (
        request.constrained or request.num_generated >= request.params.min_tokens
    ):
        return "stop"
    return "length" if len(request.tokens) >= request.max_len else None
