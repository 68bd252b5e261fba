"""The body of POST /v1/completions."""

from __future__ import annotations

from pydantic import Field

from ossia.server.schema.common import Count, ModelName, SamplingFields


class CompletionRequest(SamplingFields):
    """Raw text or token ids that the model continues, without any chat format."""

    model: ModelName = None
    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text, token ids, or a list of either. The spelling of special tokens in "
        "a text is plain text; send ids to use them."
    )
    max_tokens: Count | None = Field(None, description="Default 16.")
    echo: bool | None = Field(None, description="Begin the answer with the prompt.")
    logprobs: Count | None = Field(None, description="0 to 20 alternatives for each token.")
    suffix: str | None = Field(None, description="Refused: gpt-oss cannot fill in the middle.")
    best_of: Count | None = Field(None, description="Refused unless it equals n.")
    skip_special_tokens: bool | None = Field(
        None, description="false: special tokens appear as their spelling. Default true."
    )
