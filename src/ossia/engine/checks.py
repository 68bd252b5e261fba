"""What a front end refuses before it asks the engine."""

from __future__ import annotations

from collections.abc import Sequence

from ossia.engine.messages import EngineInfo
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
