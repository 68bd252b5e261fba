"""What crosses the socket between the API process and the engine process. Token ids, never text.

Encoded with msgpack by msgspec; unions are told apart by their tag.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ossia.sampling import SamplingParams

PhaseCut = Literal["max_tokens", "loop"]
FinishReason = Literal["stop", "length", "loop", "abort", "error"]


class PhaseLimit(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A part of the answer that may be cut short: tokens between `opening` and `closing`.

    When the part has had `max_tokens` tokens in all, or repeats itself, `closing` is forced and the
    rest of the answer follows the grammar `then`, which begins after `closing`.
    """

    opening: list[int]  # token ids, in this order, directly before the part
    closing: int  # token id that ends it
    then: str  # grammar
    max_tokens: int | None = None  # of all such parts together; None: no limit
    stop_loops: bool = True


class Constraint(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What the generated tokens may be.

    Where the grammar allows every ordinary token and also a special one, it is taken to be in free
    text that may go on without bounds: an ordinary token must not change what may follow there.
    """

    grammar: str  # llguidance's, over token ids
    limit: PhaseLimit | None = None
    stop_loops: bool = False  # outside of those phases: an endless repetition ends the sequence


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Run one sequence. A request with n choices is n of these."""

    request_id: str
    prompt: list[int]  # token ids, at least one
    params: SamplingParams
    constraint: Constraint | None = None  # None: any token


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Stop these sequences and return their pages; unknown ids are ignored, no chunk follows."""

    request_ids: list[str]


class ResetPrefixCache(msgspec.Struct, frozen=True, tag=True):
    """Forget all cached prefixes that no running request uses."""


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Stop the engine process now."""


ToEngine = Generate | Abort | ResetPrefixCache | Shutdown


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities at one position, of the distribution before temperature."""

    logprob: float  # of the token that was chosen
    top: list[tuple[int, float]]  # (token id, logprob), most likely first


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """New tokens of one sequence. The last chunk of a sequence has a finish reason."""

    request_id: str
    token_ids: list[int]  # stop tokens included
    logprobs: list[TokenLogprobs] | None = None  # one per token, if asked for
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0  # prompt tokens found in the prefix cache
    error: str | None = None  # a sentence, with finish_reason "error"
    cut: PhaseCut | None = None  # why a phase was ended, in the chunk in which that happened


class EngineStats(msgspec.Struct, frozen=True):
    """Gauges and counters of the engine; counters only grow."""

    running: int = 0  # sequences
    waiting: int = 0  # sequences
    full_pages_used: int = 0  # held by running sequences, cached ones not counted
    full_pages_total: int = 0
    window_pages_used: int = 0
    window_pages_total: int = 0
    prompt_tokens: int = 0  # computed and cached
    cached_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_seconds: float = 0.0  # whole steps
    model_seconds: float = 0.0  # of which inside the network
    constrained: int = 0  # sequences that came with a grammar
    compiling: int = 0  # sequences that wait for their grammar now
    grammars_compiled: int = 0  # not found among those compiled before
    grammar_compile_seconds: float = 0.0  # in threads, beside the steps
    masks_computed: int = 0
    mask_wait_seconds: float = 0.0  # of step_seconds, for masks that were not ready in time
    cuts_by_limit: int = 0  # phases that were closed because of max_tokens
    cuts_by_loop: int = 0  # phases that were closed because they repeated themselves


class StepOutput(msgspec.Struct, frozen=True, tag=True):
    """What one engine step produced, for all sequences at once."""

    chunks: list[Chunk]
    stats: EngineStats


class Progress(msgspec.Struct, frozen=True, tag=True):
    """A line about a long step of start-up."""

    text: str


class EngineInfo(msgspec.Struct, frozen=True):
    """What the engine turned out to be, once it is ready."""

    architecture: str
    model: str
    device: str
    dtype: str
    quantization: str | None
    attention_backend: str
    vocab_size: int
    max_model_len: int  # tokens
    max_num_seqs: int
    eos_token_ids: list[int]
    memory_plan: list[str]  # lines to print


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The model is loaded and the self-test passed."""

    info: EngineInfo


class StartupFailed(msgspec.Struct, frozen=True, tag=True):
    """The engine cannot start; `message` is a sentence for the user."""

    message: str


FromEngine = StepOutput | Progress | Ready | StartupFailed
