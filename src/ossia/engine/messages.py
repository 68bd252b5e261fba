"""What crosses the socket between the API process and the engine process. Token ids, never text.

Encoded with msgpack by msgspec; unions are told apart by their tag.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from ossia.sampling import SamplingParams

FinishReason = Literal["stop", "length", "abort", "error"]


class Generate(msgspec.Struct, frozen=True, tag=True):
    """Run one sequence. A request with n choices is n of these."""

    request_id: str
    prompt: list[int]  # token ids, at least one
    params: SamplingParams


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
