"""The bodies of POST /tokenize and /detokenize."""

from __future__ import annotations

from pydantic import Field

from ossia.server.body import RequestModel
from ossia.server.schema.chat import PromptOptions
from ossia.server.schema.common import ModelName
from ossia.server.schema.messages import ChatMessage


class TokenizeRequest(PromptOptions):
    """Either a text or a conversation, which is counted as the prompt it would become."""

    model: ModelName = None
    messages: list[ChatMessage] | None = None
    text: str | None = Field(None, description="Plain text; `prompt` is another name for it.")
    prompt: str | None = Field(None, description="The same as `text`.")


class DetokenizeRequest(RequestModel):
    """Token ids; special tokens come back as their spelling."""

    model: ModelName = None
    tokens: list[int]
