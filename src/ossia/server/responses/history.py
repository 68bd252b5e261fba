"""What came before a request: a chain of stored responses, or a stored conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ossia.errors import InvalidRequest, RequestError
from ossia.server.responses.input_items import Known, read_items
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.transcript import decode_items
from ossia.store.errors import MissingResponse
from ossia.store.records import StoredConversation, StoredResponse
from ossia.store.store import Store
from ossia.turn import Item, ToolCall

JsonObject = dict[str, Any]


class NotStored(RequestError):
    """A response, conversation or item that is not here, or no longer."""

    status = 404
    code = "not_found"


@dataclass(frozen=True, slots=True)
class History:
    """A conversation up to the request.

    Attributes:
        items: of the turn, with the tokens that the model wrote.
        calls: what the model called a client's function, by call id.
        approvals: calls that wait for the client's yes: (label, name, arguments) by id.
        listed: labels of servers whose tools the client was told.
        settings: what was frozen at the start of the conversation.
        session: under which tools keep what they remember of it; "" is a new one.
        chain: the responses that it is made of, if it is.
    """

    items: Sequence[Item] = ()
    calls: dict[str, str] = field(default_factory=dict)
    approvals: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    settings: JsonObject = field(default_factory=dict)
    session: str = ""
    chain: Sequence[StoredResponse] = ()


async def history_of_response(store: Store, response_id: str) -> History:
    """What was said up to the end of this response.

    Raises:
        InvalidRequest: it is not stored, or runs, or something before it is gone.
    """
    try:
        chain = await store.chain(response_id)
    except MissingResponse as error:
        what = "previous_response_id is" if error.id == response_id else "It goes on from"
        raise InvalidRequest(
            f"{what} {error.id[:80]!r}, which is not stored here, or no longer; send the whole "
            "conversation as input.",
            param="previous_response_id",
            code="previous_response_not_found",
        ) from None
    if chain[-1].status in ("queued", "in_progress"):
        raise InvalidRequest(
            f"The response {response_id!r} has not ended; wait until it has.",
            param="previous_response_id",
            code="previous_response_running",
        )
    return history_of_chain(chain)


def history_of_chain(chain: Sequence[StoredResponse]) -> History:
    """What was said in these responses, the oldest of which comes first."""
    items = [item for response in chain for item in decode_items(response.transcript)]
    wire = [item for response in chain for item in _wire_items(response)]
    session = chain[0].settings.get("session", chain[0].id)
    history = _history(items, wire, chain[0].settings, session)
    return replace(history, chain=chain)


async def history_of_conversation(
    store: Store, conversation: StoredConversation, seal: ReasoningSeal
) -> History:
    """What was said in this conversation so far.

    Where the items of a response are all there, its tokens stand for them.
    """
    rows = await store.all_items(conversation.id)
    responses = await store.transcripts(
        list(dict.fromkeys(row.response_id for row in rows if row.response_id))
    )
    items: list[Item] = []
    seen: list[JsonObject] = []
    for response_id, group in groupby(rows, key=lambda row: row.response_id):
        wire = [row.item for row in group]
        response = responses.get(response_id) if response_id else None
        if response is not None and _ids(wire) == _ids(_wire_items(response)):
            items += decode_items(response.transcript)
        else:
            before = _history(items, seen, {}, "")
            known = Known(before.calls, _as_calls(before.approvals))
            items += read_items(_with_their_calls(wire, known), known, seal, "items").items
        seen += wire
    return _history(items, seen, conversation.settings, conversation.id)


def _with_their_calls(wire: Sequence[JsonObject], known: Known) -> list[JsonObject]:
    """Without answers whose call or request was taken out of the conversation."""
    calls, requests = set(known.calls), set(known.approvals)
    kept = []
    for item in wire:
        match item.get("type"):
            case "function_call" | "custom_tool_call":
                calls.add(str(item.get("call_id")))
            case "mcp_approval_request":
                requests.add(str(item.get("id")))
            case "function_call_output" | "custom_tool_call_output":
                if item.get("call_id") not in calls:
                    continue
            case "mcp_approval_response" if item.get("approval_request_id") not in requests:
                continue
        kept.append(item)
    return kept


def _history(
    items: Sequence[Item], wire: Sequence[JsonObject], settings: JsonObject, session: str
) -> History:
    calls: dict[str, str] = {}
    approvals: dict[str, tuple[str, str, str]] = {}
    listed = set()
    for item in wire:
        match item.get("type"):
            case "function_call" | "custom_tool_call":
                namespace = item.get("namespace")
                name = str(item.get("name"))
                calls[str(item.get("call_id"))] = f"{namespace}.{name}" if namespace else name
            case "mcp_approval_request":
                label, name = str(item.get("server_label")), str(item.get("name"))
                approvals[str(item.get("id"))] = (label, name, str(item.get("arguments")))
            case "mcp_approval_response" | "mcp_call":
                approvals.pop(str(item.get("approval_request_id")), None)
            case "mcp_list_tools" if not item.get("error"):
                listed.add(str(item.get("server_label")))
    return History(items, calls, approvals, frozenset(listed), settings, session)


def _wire_items(response: StoredResponse) -> Iterator[JsonObject]:
    yield from response.input_items
    yield from response.body.get("output", ())


def _ids(items: Iterator[JsonObject] | Sequence[JsonObject]) -> list[Any]:
    return [item.get("id") for item in items]


def _as_calls(approvals: dict[str, tuple[str, str, str]]) -> dict[str, ToolCall]:
    return {
        identifier: ToolCall(identifier, name, arguments)
        for identifier, (_, name, arguments) in approvals.items()
    }
