"""Fields that several endpoints share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ossia.errors import InvalidRequest
from ossia.sampling import MAX_SEED, SamplingParams
from ossia.server.body import RequestModel

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16

ModelName = Annotated[
    str | None, Field(description="One of GET /v1/models; left out, the model that is served.")
]

Count = Annotated[int, Field(le=2**31 - 1)]  # what the engine takes is checked by SamplingParams


class StreamOptions(RequestModel):
    """What a stream carries besides the answer."""

    include_usage: bool | None = Field(
        None, description="End with a chunk without choices that holds `usage`."
    )


class SamplingFields(RequestModel):
    """How tokens are chosen and when to stop. null means the default."""

    temperature: float | None = Field(None, description="0 is greedy. Default 1.")
    top_p: float | None = Field(None, description="Default 1.")
    top_k: Count | None = Field(None, description="0, the default, and -1 are no limit.")
    min_p: float | None = Field(None, description="Relative to the likeliest token. Default 0.")
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = Field(None, description="Counts the prompt too. Default 1.")
    logit_bias: dict[str, float] | None = Field(
        None, description="From token id, as a string, to a number from -100 to 100."
    )
    seed: int | None = Field(
        None, description="The same request with the same seed gives the same tokens."
    )
    n: Count | None = Field(None, description=f"Choices, 1 to {MAX_CHOICES}. Default 1.")
    stop: str | list[str] | None = Field(
        None,
        description=f"Up to {MAX_STOP_STRINGS} strings that end the visible text where one of "
        "them begins.",
    )
    stop_token_ids: list[int] | None = Field(None, description="Besides the model's own.")
    ignore_eos: bool | None = Field(None, description="Go on after the model's own stop tokens.")
    min_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def choices(self) -> int:
        """The value of `n`.

        Raises:
            InvalidRequest: out of range.
        """
        n = 1 if self.n is None else self.n
        if not 1 <= n <= MAX_CHOICES:
            raise InvalidRequest(f"n must be between 1 and {MAX_CHOICES}.", param="n")
        return n

    def stop_strings(self) -> tuple[str, ...]:
        """The strings of `stop`.

        Raises:
            InvalidRequest: too many of them, or an empty one.
        """
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if len(stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(f"stop takes at most {MAX_STOP_STRINGS} strings.", param="stop")
        if "" in stop:
            raise InvalidRequest("stop has an empty string; leave it out.", param="stop")
        return stop

    def wants_usage(self) -> bool:
        """Whether the stream ends with a chunk that holds `usage`."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def sampling(self, *, max_tokens: int | None, logprobs: int | None) -> SamplingParams:
        """What the engine needs of these fields; ranges are checked by `SamplingParams.validate`.

        Raises:
            InvalidRequest: logit_bias has a key that is no token id.
        """
        given: dict[str, Any] = {
            name: value for name in _SAMPLING if (value := getattr(self, name)) is not None
        }
        if self.top_k == -1:
            given["top_k"] = 0
        if self.logit_bias:
            given["logit_bias"] = {_token_id(key): bias for key, bias in self.logit_bias.items()}
        if self.stop_token_ids:
            given["stop_token_ids"] = tuple(self.stop_token_ids)
        return SamplingParams(max_tokens=max_tokens, logprobs=logprobs, **given)


_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "ignore_eos",
    "min_tokens",
)


def seed_of_choice(params: SamplingParams, index: int) -> int | None:
    """Choices of one request differ, and each is reproducible."""
    return None if params.seed is None else (params.seed + index) & MAX_SEED


def _token_id(key: str) -> int:
    if not (key.isascii() and key.isdigit() and len(key) < 10):
        raise InvalidRequest(
            f"logit_bias has the key {key[:40]!r}; its keys are token ids.", param="logit_bias"
        )
    return int(key)
