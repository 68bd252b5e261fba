"""The messages of a conversation."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from ossia.server.body import RequestModel

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


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
    function: FunctionCall | None = None


class ChatMessage(RequestModel):
    """One message. Which fields count depends on the role."""

    role: Role
    content: str | list[ContentPart] | None = None
    name: str | None = Field(
        None,
        description="Of a system, developer or user message: shown to the model before the text, "
        "`name: text`. Of a function message: which function answers. Else ignored.",
    )
    reasoning: str | None = Field(
        None, description="Chain of thought of an assistant message, as the server sent it."
    )
    reasoning_content: str | None = Field(None, description="The same as `reasoning`.")
    refusal: str | None = Field(None, description="Text of an assistant message without content.")
    tool_calls: list[MessageToolCall] | None = None
    function_call: FunctionCall | None = Field(None, description="Older form of `tool_calls`.")
    tool_call_id: str | None = Field(None, description="Of a tool message: the call it answers.")
    audio: dict[str, Any] | None = Field(None, description="Refused: gpt-oss reads text only.")
