"""How tokens are chosen: the sampling parameters of one request, shared by the APIs and the engine.

Only what acts on token ids is here. Stop *strings* act on text and therefore live with the APIs.
"""

from __future__ import annotations

import math

import msgspec

from ossia.errors import InvalidRequest

MAX_TOP_LOGPROBS = 20
MAX_SEED = 2**64 - 1


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Sampling of one sequence. Defaults are the ones recommended for gpt-oss.

    `validate` raises `InvalidRequest`; construction does not, so that it stays cheap on the wire.
    """

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: no limit
    min_p: float = 0.0  # relative to the most likely token
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0  # counts prompt tokens too, as in Hugging Face
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None  # None: none; k: the chosen token's and the k most likely
    seed: int | None = None
    max_tokens: int | None = None  # None: up to the context's end
    min_tokens: int = 0  # no stop token is sampled before this many
    stop_token_ids: tuple[int, ...] = ()  # in addition to the model's own
    ignore_eos: bool = False  # the model's own stop tokens do not stop

    def validate(self, vocab_size: int) -> None:
        """Check every range. `vocab_size` bounds token ids.

        Raises:
            InvalidRequest: names the parameter and the range it must be in.
        """
        _between("temperature", self.temperature, 0.0, 100.0)
        _between("top_p", self.top_p, 0.0, 1.0, low_open=True)
        _between("min_p", self.min_p, 0.0, 1.0)
        _between("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _between("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _between("repetition_penalty", self.repetition_penalty, 0.0, 100.0, low_open=True)
        if self.top_k < 0:
            raise InvalidRequest("top_k must be 0 (no limit) or more.", param="top_k")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_TOP_LOGPROBS:
            raise InvalidRequest(
                f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}.", param="top_logprobs"
            )
        if self.seed is not None and not -(2**63) <= self.seed <= MAX_SEED:
            raise InvalidRequest("seed must fit into 64 bits.", param="seed")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidRequest("max_tokens must be 1 or more.", param="max_tokens")
        if self.min_tokens < 0:
            raise InvalidRequest("min_tokens must be 0 or more.", param="min_tokens")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise InvalidRequest("min_tokens must not exceed max_tokens.", param="min_tokens")
        for token, bias in self.logit_bias.items():
            if not 0 <= token < vocab_size:
                raise InvalidRequest(
                    f"logit_bias names token {token}; token ids are 0 to {vocab_size - 1}.",
                    param="logit_bias",
                )
            _between("logit_bias", bias, -100.0, 100.0)
        for token in self.stop_token_ids:
            if not 0 <= token < vocab_size:
                raise InvalidRequest(
                    f"stop_token_ids has {token}; token ids are 0 to {vocab_size - 1}.",
                    param="stop_token_ids",
                )


def _between(name: str, value: float, low: float, high: float, *, low_open: bool = False) -> None:
    inside = (low < value if low_open else low <= value) and value <= high
    if not math.isfinite(value) or not inside:
        lower = f"above {low:g}" if low_open else f"at least {low:g}"
        raise InvalidRequest(f"{name} must be {lower} and at most {high:g}.", param=name)
