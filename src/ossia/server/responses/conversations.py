"""The endpoints of conversations: items that several responses share."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ossia.errors import InvalidRequest
from ossia.server.body import read_body
from ossia.server.openapi import takes
from ossia.server.responses.history import NotStored
from ossia.server.responses.identifiers import new_id
from ossia.server.responses.input_items import Known, read_items
from ossia.server.responses.pages import as_page, check_page
from ossia.server.responses.prepare import wire_items
from ossia.server.schema.responses import (
    ConversationItems,
    ConversationRequest,
    ConversationUpdate,
)
from ossia.server.service import Service
from ossia.store.errors import DuplicateItem, MissingConversation, MissingItem
from ossia.store.records import StoredConversation
from ossia.turn import ToolCall

JsonObject = dict[str, Any]
MAX_ITEMS = 100  # in one request


def conversations_router(service: Service) -> APIRouter:
    """The routes of this file."""
    router = APIRouter()

    async def found(conversation_id: str) -> StoredConversation:
        conversation = await service.store.conversation(conversation_id)
        if conversation is None:
            raise _missing(conversation_id)
        return conversation

    @router.post("/v1/conversations", openapi_extra=takes(ConversationRequest))
    async def create_conversation(request: Request) -> Response:
        """Begin a conversation, maybe with items."""
        body = await read_body(request, ConversationRequest)
        items = _checked(service, body.items or [], [])
        date = service.date()
        conversation = StoredConversation(
            id=new_id("conv"),
            created_at=int(time.time()),
            metadata=dict(body.metadata or {}),
            settings={"date": date and date.isoformat()},
        )
        await service.store.create_conversation(conversation, items)
        return _json(_body(conversation))

    @router.get("/v1/conversations/{conversation_id}")
    async def retrieve_conversation(conversation_id: str) -> Response:
        """A conversation without its items."""
        return _json(_body(await found(conversation_id)))

    @router.post("/v1/conversations/{conversation_id}", openapi_extra=takes(ConversationUpdate))
    async def update_conversation(conversation_id: str, request: Request) -> Response:
        """Change the metadata of a conversation."""
        body = await read_body(request, ConversationUpdate)
        metadata = dict(body.metadata or {})
        conversation = await service.store.update_conversation(conversation_id, metadata)
        if conversation is None:
            raise _missing(conversation_id)
        return _json(_body(conversation))

    @router.delete("/v1/conversations/{conversation_id}")
    async def delete_conversation(conversation_id: str) -> Response:
        """Forget a conversation; its responses stay."""
        if not await service.store.delete_conversation(conversation_id):
            raise _missing(conversation_id)
        return _json({"id": conversation_id, "object": "conversation.deleted", "deleted": True})

    @router.post(
        "/v1/conversations/{conversation_id}/items", openapi_extra=takes(ConversationItems)
    )
    async def create_items(conversation_id: str, request: Request) -> Response:
        """Add items to the end of a conversation."""
        body = await read_body(request, ConversationItems)
        await found(conversation_id)
        before = [row.item for row in await service.store.all_items(conversation_id)]
        items = _checked(service, body.items, before)
        try:
            await service.store.add_items(conversation_id, items)
        except MissingConversation:
            raise _missing(conversation_id) from None
        except DuplicateItem as error:
            raise InvalidRequest(error.message, param="items") from None
        return _json(as_page(items, len(items)))

    @router.get("/v1/conversations/{conversation_id}/items")
    async def list_items(
        conversation_id: str, limit: int = 20, order: str = "desc", after: str | None = None
    ) -> Response:
        """The items of a conversation."""
        check_page(limit, order)
        await found(conversation_id)
        try:
            rows = await service.store.items(
                conversation_id, after=after, limit=limit + 1, ascending=order == "asc"
            )
        except MissingItem as error:
            raise InvalidRequest(error.message, param="after") from None
        return _json(as_page([row.item for row in rows], limit))

    @router.get("/v1/conversations/{conversation_id}/items/{item_id}")
    async def retrieve_item(conversation_id: str, item_id: str) -> Response:
        """One item of a conversation."""
        await found(conversation_id)
        item = await service.store.item(conversation_id, item_id)
        if item is None:
            raise NotStored(f"The conversation has no item {item_id[:80]!r}.", param="item_id")
        return _json(item)

    @router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
    async def delete_item(conversation_id: str, item_id: str) -> Response:
        """Take an item out of a conversation."""
        conversation = await found(conversation_id)
        if not await service.store.delete_item(conversation_id, item_id):
            raise NotStored(f"The conversation has no item {item_id[:80]!r}.", param="item_id")
        return _json(_body(conversation))

    return router


def _checked(
    service: Service, given: list[JsonObject], before: list[JsonObject]
) -> list[JsonObject]:
    """The items in full, if the model can read them after those `before`.

    Raises:
        InvalidRequest: too many, or one that the model cannot read.
    """
    if len(given) > MAX_ITEMS:
        raise InvalidRequest(f"items takes at most {MAX_ITEMS} at once.", param="items")
    calls = {
        str(item["call_id"]): str(item["name"])
        for item in before
        if item.get("type") in ("function_call", "custom_tool_call")
    }
    approvals = {
        item["id"]: ToolCall(item["id"], str(item["name"]), str(item["arguments"]))
        for item in before
        if item.get("type") == "mcp_approval_request"
    }
    read_items(given, Known(calls, approvals), service.seal, "items")
    return wire_items(given)


def _body(conversation: StoredConversation) -> JsonObject:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    }


def _missing(conversation_id: str) -> NotStored:
    return NotStored(
        f"There is no conversation {conversation_id[:80]!r} here; it was deleted, or has expired.",
        param="conversation_id",
        code="conversation_not_found",
    )


def _json(body: object) -> Response:
    return Response(msgspec.json.encode(body), media_type="application/json")
