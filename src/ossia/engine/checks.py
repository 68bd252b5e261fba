"""What a front end refuses before it asks the engine."""

from __future__ import annotations

from collections.abc import Sequence

from ossia.engine.messages import Constraint, EngineInfo
from ossia.engine.vocabulary import TOKENIZER_SIZE
from ossia.errors import ContextLengthExceeded, InvalidRequest
from ossia.sampling import SamplingParams


def check_request(prompt: Sequence[int], params: SamplingParams, info: EngineInfo) -> None:
    """Refuse what the engine could not run.

    Raises:
        InvalidRequest: an empty prompt, a token id or a sampling parameter out of range.
        ContextLengthExceeded: the prompt, or prompt and max_tokens, exceed the context.
    """
    if not prompt:
        raise InvalidRequest("The prompt is empty; send at least one token.", param="prompt")
    if min(prompt) < 0 or max(prompt) >= info.vocab_size:
        raise InvalidRequest(
            f"The prompt has a token id outside 0 to {info.vocab_size - 1}.", param="prompt"
        )
    params.validate(info.vocab_size)
    if len(prompt) >= info.max_model_len:
        raise ContextLengthExceeded(
            f"The prompt has {len(prompt)} tokens; this server's context is "
            f"{info.max_model_len} tokens, of which at least one must be left for the answer. "
            "Shorten the prompt."
        )
    if params.max_tokens is not None and len(prompt) + params.max_tokens > info.max_model_len:
        raise ContextLengthExceeded(
            f"The prompt has {len(prompt)} tokens and max_tokens asks for {params.max_tokens} "
            f"more; this server's context is {info.max_model_len} tokens. "
            "Shorten the prompt or ask for fewer tokens.",
            param="max_tokens",
        )


def check_constraint(
    constraint: Constraint | None, params: SamplingParams, vocab_size: int
) -> None:
    """Refuse a constraint that cannot go with the rest of the request, or with the model.

    Raises:
        InvalidRequest: says what to leave out.
    """
    if constraint is None:
        return
    if params.ignore_eos:
        raise InvalidRequest(
            "ignore_eos cannot be used together with a grammar; leave one of them out.",
            param="ignore_eos",
        )
    if vocab_size < TOKENIZER_SIZE:
        raise InvalidRequest(
            f"This model has {vocab_size} tokens; grammars need one with the {TOKENIZER_SIZE} of "
            "gpt-oss. Send the request without a grammar."
        )
    limit = constraint.limit
    if limit is not None and (not limit.opening or (limit.max_tokens or 0) < 0):
        raise InvalidRequest(
            "A phase limit needs an opening of at least one token and max_tokens of 0 or more."
        )
