"""Log probabilities in the two forms that OpenAI's APIs have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ossia.answer.assembler import TextToken
from ossia.harmony.tokenizer import Tokenizer

_LOWEST = -9999.0  # stands for minus infinity, which JSON cannot say


def chat_logprobs(tokenizer: Tokenizer, tokens: Iterable[TextToken]) -> list[dict[str, Any]]:
    """A list of `logprobs` in Chat Completions: `bytes` says what `token` may be unable to."""
    return [
        {
            **_entry(tokenizer, token.token_id, token.logprobs.logprob),
            "top_logprobs": [_entry(tokenizer, i, logprob) for i, logprob in token.logprobs.top],
        }
        for token in tokens
    ]


def completion_logprobs(
    tokenizer: Tokenizer, tokens: Sequence[TextToken], offset: int
) -> dict[str, Any]:
    """`logprobs` of Completions. `offset`: characters of text before the first token."""
    names = [token_name(tokenizer, token.token_id) for token in tokens]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(tokenizer.decode([token.token_id]))
    return {
        "tokens": names,
        "token_logprobs": [max(token.logprobs.logprob, _LOWEST) for token in tokens],
        "top_logprobs": [
            {token_name(tokenizer, i): max(logprob, _LOWEST) for i, logprob in token.logprobs.top}
            for token in tokens
        ],
        "text_offset": offsets,
    }


def token_name(tokenizer: Tokenizer, token_id: int) -> str:
    """The token's text; a part of a character is spelled as its bytes, `bytes:\\xe2\\x96`."""
    raw = tokenizer.token_bytes(token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _entry(tokenizer: Tokenizer, token_id: int, logprob: float) -> dict[str, Any]:
    return {
        "token": token_name(tokenizer, token_id),
        "logprob": max(logprob, _LOWEST),
        "bytes": list(tokenizer.token_bytes(token_id)),
    }
