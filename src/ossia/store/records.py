"""What the store keeps. Bodies and items are JSON objects; transcripts are opaque."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

UNFINISHED = ("queued", "in_progress")  # every other status is final


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response with all that a later request needs to go on from it."""

    id: str
    created_at: int  # seconds since 1970
    status: str  # queued, in_progress, completed, incomplete, failed, cancelled
    background: bool
    previous_response_id: str | None
    conversation_id: str | None
    body: dict[str, Any]  # the API's Response object
    input_items: list[dict[str, Any]]  # each with an "id"
    transcript: bytes = b""  # what this response added to its conversation
    settings: dict[str, Any] = field(default_factory=dict)  # frozen per conversation


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation without its items, which are asked for apart."""

    id: str
    created_at: int  # seconds since 1970
    metadata: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)  # small facts frozen for its life


@dataclass(frozen=True, slots=True)
class ConversationItem:
    """An item, and the response that brought it if it was not added by the client itself."""

    item: dict[str, Any]  # with an "id", unique within its conversation
    response_id: str | None
