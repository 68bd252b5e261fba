"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ossia.server.body import RequestModel
from ossia.server.schema.common import Count, ModelName, SamplingFields
from ossia.server.schema.messages import ChatMessage
from ossia.server.schema.output import ResponseFormat
from ossia.server.schema.tools import FunctionDefinition, NamedFunction, ToolChoiceSpec, ToolSpec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class PromptOptions(RequestModel):
    """What the prompt and the form of the answer depend on besides the messages."""

    tools: list[ToolSpec] | None = None
    tool_choice: str | ToolChoiceSpec | None = Field(
        None,
        description="auto (the default), none, which hides the tools from the model, required, "
        "one function by its name, or allowed_tools.",
    )
    parallel_tool_calls: bool | None = Field(
        None, description="false: at most one call in a turn. Default true."
    )
    functions: list[FunctionDefinition] | None = Field(
        None, description="Older form of `tools`; the answer has `function_call` then."
    )
    function_call: str | NamedFunction | None = Field(
        None, description="Older form of `tool_choice`: auto, none, or a function by its name."
    )
    response_format: ResponseFormat | None = None
    reasoning_effort: Effort | None = Field(
        None,
        description="low, medium (the default) or high. gpt-oss always reasons: none and minimal "
        "mean low, xhigh and max mean high.",
    )


class IgnoredFields(RequestModel):
    """Fields of OpenAI's API that change nothing here."""

    store: bool | None = Field(None, description="Ignored: nothing is stored.")
    metadata: dict[str, Any] | None = Field(None, description="Ignored.")
    user: str | None = Field(None, description="Ignored.")
    safety_identifier: str | None = Field(None, description="Ignored.")
    service_tier: str | None = Field(None, description="Ignored: there is one tier.")
    prompt_cache_key: str | None = Field(
        None, description="Ignored: prompts are found in the cache by their tokens."
    )
    prompt_cache_retention: str | None = Field(None, description="Ignored.")
    prompt_cache_options: dict[str, Any] | None = Field(None, description="Ignored.")
    verbosity: str | None = Field(
        None,
        description="Ignored: gpt-oss does not know it; say in a message what length to aim at.",
    )
    prediction: dict[str, Any] | None = Field(
        None, description="Ignored: it would change the speed, never the answer."
    )


class RefusedFields(RequestModel):
    """Fields of OpenAI's API that ask for what gpt-oss cannot do."""

    modalities: list[str] | None = Field(None, description="Refused unless it is [text].")
    audio: dict[str, Any] | None = Field(None, description="Refused: gpt-oss writes text only.")
    web_search_options: dict[str, Any] | None = Field(
        None, description="Refused: declare a function that searches."
    )
    moderation: dict[str, Any] | None = Field(
        None, description="Refused: there is no moderation model here."
    )


class ChatRequest(SamplingFields, PromptOptions, IgnoredFields, RefusedFields):
    """A conversation that the model is asked to continue."""

    model: ModelName = None
    messages: list[ChatMessage]
    max_tokens: Count | None = Field(
        None, description="Reasoning included. Default: up to the end of the context."
    )
    max_completion_tokens: Count | None = Field(None, description="Goes before max_tokens.")
    max_reasoning_tokens: Count | None = Field(
        None,
        description="When the reasoning has had this many tokens it is ended and the answer "
        "follows. 0: none. Default: no limit of its own.",
    )
    include_reasoning: bool | None = Field(
        None, description="false: the chain of thought is not sent; it is still counted."
    )
    logprobs: bool | None = Field(None, description="Log probabilities of the visible text.")
    top_logprobs: Count | None = Field(None, description="0 to 20; needs logprobs.")
    include_reasoning_logprobs: bool | None = Field(
        None, description="Those of the reasoning too, as `logprobs.reasoning`; needs logprobs."
    )
