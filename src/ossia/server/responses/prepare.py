"""A request to the Responses API becomes a turn, with its tools and what came before it."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import FieldPaths
from ossia.server.chat_output import output_format
from ossia.server.chat_turn import effort_of
from ossia.server.responses.history import (
    History,
    NotStored,
    history_of_chain,
    history_of_conversation,
    history_of_response,
)
from ossia.server.responses.identifiers import new_item_id
from ossia.server.responses.input_items import Known, ReadItems, read_items
from ossia.server.responses.tools import RequestTools, request_tools
from ossia.server.schema.output import JsonSchemaFormat, ResponseFormat
from ossia.server.schema.responses import TextFormat, TurnOptions
from ossia.server.service import Service
from ossia.store.records import StoredResponse
from ossia.turn import Instructions, Item, OutputFormat, ToolCall, Turn

JsonObject = dict[str, Any]

MAX_ID = 64  # characters of the client's own ids
RESPONSES_PATHS = FieldPaths(
    tool_parameters="tools[{index}].parameters",
    output="text.format",
    output_schema="text.format.schema",
    pattern="text.format.pattern",
    choices="text.format.choices",
    grammar="text.format.grammar",
)

_WITH_STATUS = (  # types of items that the API shows with a status
    *("message", "function_call", "function_call_output"),
    *("custom_tool_call", "custom_tool_call_output"),
)


@dataclass(frozen=True, slots=True)
class PreparedTurn:
    """What a request asks the model.

    Attributes:
        new_items: what the request itself adds to the conversation.
        input_items: the same as the API's items, each with an id.
        approved: calls that the client has just allowed.
        settings: what is frozen for the conversation, `date` and `session`; the session is ""
            where it begins here.
    """

    turn: Turn
    tools: RequestTools
    history: History
    new_items: Sequence[Item]
    input_items: list[JsonObject]
    approved: Sequence[ToolCall]
    conversation_id: str | None
    settings: JsonObject


async def prepare_turn(
    service: Service,
    request: TurnOptions,
    kept: Mapping[str, Sequence[StoredResponse]] = MappingProxyType({}),
) -> PreparedTurn:
    """The turn of a request, with what is stored of its conversation.

    `kept` are chains of responses that can be continued although they are not stored.

    Raises:
        RequestError: something of it cannot be had or read.
    """
    conversation_id = _conversation_id(request)
    previous = request.previous_response_id
    if previous is not None and previous in kept:
        history = history_of_chain(kept[previous])
    else:
        history = await _history(service, previous, conversation_id)
    given = await _without_references(service, request.input if request.input is not None else [])
    tools = await request_tools(
        [*(request.tools or ()), *_additional_tools(given)]
        if request.tools is not None
        else _additional_tools(given) or None,
        request.tool_choice,
        service.tools,
    )
    read = _read(service, given, history, tools)
    settings = dict(history.settings) or {"date": _iso(service.date())}
    instructions = _instructions(service, request.instructions)
    items = (*instructions, *history.items, *read.items)
    if not items:
        raise InvalidRequest(
            "input is empty; send a text or at least one item.",
            param="input",
            code="missing_required_parameter",
        )
    turn = Turn(
        items=items,
        tools=tools.toolset.definitions,
        builtins=tools.toolset.builtins,
        effort=effort_of(request.reasoning.effort if request.reasoning else None),
        date=_date(settings.get("date")),
        tool_choice=tools.toolset.choice,
        parallel_tool_calls=request.parallel_tool_calls is not False,
        output=text_format(request.text.format if request.text else None),
    )
    return PreparedTurn(
        turn=turn,
        tools=tools,
        history=dataclasses.replace(history, listed=history.listed | read.listed),
        new_items=read.items,
        input_items=wire_items(given),
        approved=read.approved,
        conversation_id=conversation_id,
        settings=settings,
    )


def wire_items(given: str | Sequence[JsonObject]) -> list[JsonObject]:
    """Items as the API lists them: each with a type and an id, texts as parts."""
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    return [_complete(item) for item in given]


def _complete(item: JsonObject) -> JsonObject:
    kind = item.get("type") or "message"
    complete = {"id": new_item_id(kind), "type": kind, **_without_odd_id(item)}
    if kind in _WITH_STATUS and complete.get("status") is None:
        complete["status"] = "completed"
    if kind == "reasoning" and complete.get("summary") is None:
        complete["summary"] = []
    if kind == "message":
        content = item.get("content")
        parts = [content] if isinstance(content, str) else content or []
        mine = item.get("role") == "assistant"
        complete["content"] = [_complete_part(part, mine) for part in parts]
    return complete


def _complete_part(part: str | JsonObject, mine: bool) -> JsonObject:
    if isinstance(part, str):
        part = {"type": "output_text" if mine else "input_text", "text": part}
    return {"annotations": [], **part} if part.get("type") == "output_text" else part


def text_format(given: TextFormat | None) -> OutputFormat | None:
    """`text.format` as what the answer must be.

    Raises:
        InvalidRequest: a part of it is missing or cannot be read.
    """
    if given is None:
        return None
    schema = None
    if given.type == "json_schema":
        schema = JsonSchemaFormat(
            name=given.name,
            description=given.description,
            schema=given.schema_,
            strict=given.strict,
        )
    return output_format(
        ResponseFormat(
            type=given.type,
            json_schema=schema,
            pattern=given.pattern,
            choices=given.choices,
            syntax=given.syntax,
            grammar=given.grammar,
        ),
        RESPONSES_PATHS,
    )


def _without_odd_id(item: Mapping[str, Any]) -> JsonObject:
    given = item.get("id")
    if isinstance(given, str) and 0 < len(given) <= MAX_ID:
        return dict(item)
    return {key: value for key, value in item.items() if key != "id"}


def _conversation_id(request: TurnOptions) -> str | None:
    conversation = request.conversation
    if conversation is None:
        return None
    if request.previous_response_id is not None:
        raise InvalidRequest(
            "conversation and previous_response_id both say what came before; send one of them.",
            param="conversation",
        )
    return conversation if isinstance(conversation, str) else conversation.id


async def _history(
    service: Service, previous_response_id: str | None, conversation_id: str | None
) -> History:
    if previous_response_id is not None:
        return await history_of_response(service.store, previous_response_id)
    if conversation_id is None:
        return History()
    conversation = await service.store.conversation(conversation_id)
    if conversation is None:
        raise NotStored(
            f"There is no conversation {conversation_id[:80]!r} here; create it with POST "
            "/v1/conversations, or leave conversation out.",
            param="conversation",
            code="conversation_not_found",
        )
    return await history_of_conversation(service.store, conversation, service.seal)


async def _without_references(
    service: Service, given: str | list[JsonObject]
) -> str | list[JsonObject]:
    """The items, with stored ones in the place of references to them."""
    if isinstance(given, str):
        return given
    ids = [str(item.get("id")) for item in given if item.get("type") == "item_reference"]
    if not ids:
        return given
    found = await service.store.find_items(ids)
    items = []
    for index, item in enumerate(given):
        if item.get("type") != "item_reference":
            items.append(item)
        elif (item_id := str(item.get("id"))) in found:
            items.append(found[item_id])
        else:
            raise NotStored(
                f"input[{index}] refers to the item {item_id[:80]!r}, which is not stored here, "
                "or no longer; send the item itself.",
                param=f"input[{index}].id",
                code="item_not_found",
            )
    return items


def _additional_tools(given: str | Sequence[JsonObject]) -> list[JsonObject]:
    """Tools that stand among the items."""
    if isinstance(given, str):
        return []
    groups = [item.get("tools") for item in given if item.get("type") == "additional_tools"]
    return [tool for group in groups if isinstance(group, list) for tool in group]


def _read(
    service: Service, given: str | list[JsonObject], history: History, tools: RequestTools
) -> ReadItems:
    approvals = {
        identifier: ToolCall(identifier, tools.name_of(label, name), arguments)
        for identifier, (label, name, arguments) in history.approvals.items()
    }
    read = read_items(given, Known(history.calls, approvals, tools.name_of), service.seal)
    for call in read.approved:
        offer = tools.toolset.offers.get(call.name)
        if offer is None or offer.kind != "server":
            raise InvalidRequest(
                f"The approved tool {call.name[:80]!r} is not among the tools; send the mcp tool "
                "that it belongs to as well.",
                param="tools",
            )
    return read


def _instructions(service: Service, given: str | Sequence[JsonObject] | None) -> Sequence[Item]:
    if given is None:
        return ()
    if isinstance(given, str):
        return (Instructions(given),)
    return read_items(given, Known(), service.seal, "instructions").items


def _date(text: str | None) -> datetime.date | None:
    return None if text is None else datetime.date.fromisoformat(text)


def _iso(date: datetime.date | None) -> str | None:
    return None if date is None else date.isoformat()
