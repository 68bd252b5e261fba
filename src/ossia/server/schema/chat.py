"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ossia.server.body import RequestModel
from ossia.server.schema.common import Count, ModelName, SamplingFields

Role = Literal["system", "developer", "user", "assistant", "tool"]


class ContentPart(RequestModel):
    """A piece of a message; gpt-oss reads pieces of type text only."""

    type: str
    text: str | None = None
    refusal: str | None = None


class FunctionCall(RequestModel):
    """Which function was called, with the JSON text of its arguments."""

    name: str
    arguments: str


class MessageToolCall(RequestModel):
    """A call that the assistant made earlier in the conversation."""

    id: str
    type: str = "function"
    function: FunctionCall


class ChatMessage(RequestModel):
    """One message. Which fields count depends on the role."""

    role: Role
    content: str | list[ContentPart] | None = None
    reasoning: str | None = Field(
        None, description="Chain of thought of an assistant message, as the server sent it."
    )
    reasoning_content: str | None = Field(None, description="The same as `reasoning`.")
    tool_calls: list[MessageToolCall] | None = None
    tool_call_id: str | None = Field(None, description="Of a tool message: the call it answers.")
    name: str | None = None


class FunctionDefinition(RequestModel):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments object."
    )
    strict: bool | None = None


class ToolSpec(RequestModel):
    """A tool; type function is the only one."""

    type: str
    function: FunctionDefinition | None = None


class NamedFunction(RequestModel):
    """The name of a function."""

    name: str


class NamedToolChoice(RequestModel):
    """A choice of one tool by its name."""

    type: str
    function: NamedFunction | None = None


class ResponseFormat(RequestModel):
    """Form of the answer."""

    type: str


class PromptOptions(RequestModel):
    """What the prompt depends on besides the messages."""

    tools: list[ToolSpec] | None = None
    tool_choice: str | NamedToolChoice | None = Field(
        None, description="auto, or none, which hides the tools from the model."
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = Field(
        None,
        description="low, medium (the default) or high. gpt-oss always reasons: none and minimal "
        "mean low, xhigh means high.",
    )


class ChatRequest(SamplingFields, PromptOptions):
    """A conversation that the model is asked to continue."""

    model: ModelName = None
    messages: list[ChatMessage]
    max_tokens: Count | None = Field(
        None, description="Reasoning included. Default: up to the end of the context."
    )
    max_completion_tokens: Count | None = Field(None, description="Goes before max_tokens.")
    include_reasoning: bool | None = Field(
        None, description="false: the chain of thought is not sent; it is still counted."
    )
    logprobs: bool | None = Field(None, description="Log probabilities of the visible text.")
    top_logprobs: Count | None = Field(None, description="0 to 20; needs logprobs.")
    parallel_tool_calls: bool | None = Field(
        None, description="Accepted; gpt-oss ends its turn at each call, so there is one at a time."
    )
    response_format: ResponseFormat | None = None
