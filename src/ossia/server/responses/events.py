"""The events of a response: which may follow which is said here, and checked on every one.

    created  queued?  in_progress  (an item ...)*  completed | incomplete | failed

    an item    output_item.added, what belongs to its type, output_item.done
    message    content_part.added, output_text.delta*, output_text.done, content_part.done
    reasoning  the same with reasoning_text, and reasoning_summary_* if there is a summary
    calls      in_progress, arguments.delta*, arguments.done, completed | failed

Items are numbered as they are added, and several calls may be open at once. Events are checked as
objects of the openai package. Every stream ends with one of the last three, also when it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from openai import BaseModel
from openai.types import responses as types
from pydantic import BaseModel as PydanticModel

JsonObject = dict[str, Any]

TERMINAL = {
    "completed": "response.completed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",  # OpenAI has no event of its own for it
    "failed": "response.failed",
}
# OpenAI's own clients refuse the names that the Open Responses specification has for these.
_OPEN_RESPONSES = {
    "response.reasoning_text.delta": "response.reasoning.delta",
    "response.reasoning_text.done": "response.reasoning.done",
}
PROGRESS = "ossia.tool_call.progress"  # ours: only for streams that ask for it

_CLASSES: Mapping[str, type[BaseModel]] = {
    "response.output_item.added": types.ResponseOutputItemAddedEvent,
    "response.output_item.done": types.ResponseOutputItemDoneEvent,
    "response.content_part.added": types.ResponseContentPartAddedEvent,
    "response.content_part.done": types.ResponseContentPartDoneEvent,
    "response.output_text.delta": types.ResponseTextDeltaEvent,
    "response.output_text.done": types.ResponseTextDoneEvent,
    "response.output_text.annotation.added": types.ResponseOutputTextAnnotationAddedEvent,
    "response.reasoning_text.delta": types.ResponseReasoningTextDeltaEvent,
    "response.reasoning_text.done": types.ResponseReasoningTextDoneEvent,
    "response.reasoning_summary_part.added": types.ResponseReasoningSummaryPartAddedEvent,
    "response.reasoning_summary_part.done": types.ResponseReasoningSummaryPartDoneEvent,
    "response.reasoning_summary_text.delta": types.ResponseReasoningSummaryTextDeltaEvent,
    "response.reasoning_summary_text.done": types.ResponseReasoningSummaryTextDoneEvent,
    "response.function_call_arguments.delta": types.ResponseFunctionCallArgumentsDeltaEvent,
    "response.function_call_arguments.done": types.ResponseFunctionCallArgumentsDoneEvent,
    "response.custom_tool_call_input.delta": types.ResponseCustomToolCallInputDeltaEvent,
    "response.custom_tool_call_input.done": types.ResponseCustomToolCallInputDoneEvent,
    "response.mcp_call.in_progress": types.ResponseMcpCallInProgressEvent,
    "response.mcp_call.completed": types.ResponseMcpCallCompletedEvent,
    "response.mcp_call.failed": types.ResponseMcpCallFailedEvent,
    "response.mcp_call_arguments.delta": types.ResponseMcpCallArgumentsDeltaEvent,
    "response.mcp_call_arguments.done": types.ResponseMcpCallArgumentsDoneEvent,
    "response.mcp_list_tools.in_progress": types.ResponseMcpListToolsInProgressEvent,
    "response.mcp_list_tools.completed": types.ResponseMcpListToolsCompletedEvent,
    "response.mcp_list_tools.failed": types.ResponseMcpListToolsFailedEvent,
    "response.code_interpreter_call.in_progress": (
        types.ResponseCodeInterpreterCallInProgressEvent
    ),
    "response.code_interpreter_call.interpreting": (
        types.ResponseCodeInterpreterCallInterpretingEvent
    ),
    "response.code_interpreter_call.completed": types.ResponseCodeInterpreterCallCompletedEvent,
    "response.code_interpreter_call_code.delta": types.ResponseCodeInterpreterCallCodeDeltaEvent,
    "response.code_interpreter_call_code.done": types.ResponseCodeInterpreterCallCodeDoneEvent,
    "response.web_search_call.in_progress": types.ResponseWebSearchCallInProgressEvent,
    "response.web_search_call.searching": types.ResponseWebSearchCallSearchingEvent,
    "response.web_search_call.completed": types.ResponseWebSearchCallCompletedEvent,
}

# Which events belong to an item of a type, by the name between `response.` and the last dot.
_OF_ITEM: Mapping[str, tuple[str, ...]] = {
    "message": ("content_part", "output_text", "output_text.annotation"),
    "reasoning": (
        *("content_part", "reasoning_text"),
        *("reasoning_summary_part", "reasoning_summary_text"),
    ),
    "function_call": ("function_call_arguments",),
    "custom_tool_call": ("custom_tool_call_input",),
    "mcp_call": ("mcp_call", "mcp_call_arguments"),
    "mcp_list_tools": ("mcp_list_tools",),
    "mcp_approval_request": (),
    "code_interpreter_call": ("code_interpreter_call", "code_interpreter_call_code"),
    "web_search_call": ("web_search_call",),
}
# What a `.done` event repeats of its deltas, and where.
_TEXT_OF_DONE = {
    "output_text": "text",
    "reasoning_text": "text",
    "reasoning_summary_text": "text",
    "function_call_arguments": "arguments",
    "mcp_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
}
_PARTS = {"content_part": "output_text", "reasoning_summary_part": "reasoning_summary_text"}


class EventOrderError(Exception):
    """An event that may not come here: a fault of ours."""


@dataclass(slots=True)
class _Item:
    id: str
    type: str
    is_done: bool = False
    parts: dict[tuple[str, int], bool] = field(default_factory=dict)  # open or not
    texts: dict[tuple[str, int], list[str]] = field(default_factory=dict)  # until they are done
    state: str = "new"  # of a call: new, in_progress, ended


class EventSequence:
    """Numbers the events of one response and lets none through that may not come."""

    def __init__(self) -> None:
        self._number = 0
        self._phase: Literal["new", "created", "queued", "in_progress", "ended"] = "new"
        self._items: list[_Item] = []

    @property
    def is_ended(self) -> bool:
        """Whether the last event has been."""
        return self._phase == "ended"

    def lifecycle(self, kind: str, response: JsonObject) -> JsonObject:
        """An event with the whole response: created, queued, in_progress, or one of TERMINAL.

        Raises:
            EventOrderError: it may not come now.
        """
        before = {"created": ("new",), "queued": ("created",), "in_progress": ("created", "queued")}
        name = kind.removeprefix("response.")
        allowed = before.get(name, ("created", "queued", "in_progress"))
        self._demand(self._phase in allowed, kind)
        if name in before:
            self._phase = name  # type: ignore[assignment]
        else:
            self._demand(kind in TERMINAL.values(), kind)
            self._demand(all(item.is_done for item in self._items), f"{kind} before its items")
            written = [item["id"] for item in response["output"]]
            self._demand(written == [item.id for item in self._items], f"{kind} without an item")
            self._phase = "ended"
        return self._numbered({"type": f"response.{name}", "response": response})

    def emit(self, kind: str, output_index: int, **fields: Any) -> JsonObject:
        """An event of an item; `kind` without `response.`. The item's id is put in.

        Raises:
            EventOrderError: it may not come now.
        """
        self._demand(self._phase == "in_progress", kind)
        if kind == "output_item.added":
            self._demand(output_index == len(self._items), kind)
            item = fields["item"]
            self._demand(item["id"] not in {known.id for known in self._items}, "an id twice")
            self._items.append(_Item(item["id"], item["type"]))
        else:
            self._demand(output_index < len(self._items), kind)
            known = self._items[output_index]
            self._demand(not known.is_done, f"{kind} after its item")
            self._step(known, kind, fields)
            if kind != "output_item.done":
                fields["item_id"] = known.id
        name = f"response.{kind}"
        event = self._numbered({"type": name, "output_index": output_index, **fields})
        if kind.endswith(".delta"):
            return event  # one a token: as an object it would cost several times as much
        return as_json(_CLASSES[name](**event))

    def progress(self, output_index: int, text: str) -> JsonObject:
        """Partial output of the tool of a call that is open."""
        item = self._items[output_index]
        self._demand(not item.is_done, PROGRESS)
        where = {"item_id": item.id, "output_index": output_index}
        return self._numbered({"type": PROGRESS, **where, "delta": text})

    def _step(self, item: _Item, kind: str, fields: Mapping[str, Any]) -> None:
        if kind == "output_item.done":
            self._demand(fields["item"]["id"] == item.id, kind)
            self._demand(not any(item.parts.values()), f"{kind} before its parts")
            self._demand(not item.texts, f"{kind} before its texts")
            self._demand(item.state != "in_progress", f"{kind} before its call has ended")
            item.is_done = True
            return
        group, _, step = kind.rpartition(".")
        self._demand(group in _OF_ITEM.get(item.type, ()), f"{kind} in a {item.type}")
        number = fields.get("content_index", fields.get("summary_index", 0))
        if group in _PARTS:
            key = (group, number)
            if step == "added":
                self._demand(key not in item.parts, f"{kind} twice")
                item.parts[key] = True
            else:
                self._demand(item.parts.get(key, False), kind)
                self._demand(not item.texts, f"{kind} before its text")
                item.parts[key] = False
        elif group in _TEXT_OF_DONE:
            self._text(item, group, number, kind, fields)
        elif step in ("completed", "failed"):
            self._demand(item.state == "in_progress", kind)
            item.state = "ended"
        elif group == item.type:
            self._demand(item.state != "ended", kind)
            item.state = "in_progress"

    def _text(
        self, item: _Item, group: str, number: int, kind: str, fields: Mapping[str, Any]
    ) -> None:
        if group in ("output_text", "reasoning_text"):
            self._demand(item.parts.get(("content_part", number), False), f"{kind} without a part")
        elif group == "reasoning_summary_text":
            part = ("reasoning_summary_part", number)
            self._demand(item.parts.get(part, False), f"{kind} without a part")
        key = (group, number)
        if kind.endswith(".delta"):
            item.texts.setdefault(key, []).append(fields["delta"])
        else:
            written = "".join(item.texts.pop(key, ()))
            self._demand(written == fields[_TEXT_OF_DONE[group]], f"{kind} with another text")

    def _numbered(self, event: JsonObject) -> JsonObject:
        event["sequence_number"] = self._number
        self._number += 1
        return event

    def _demand(self, condition: bool, what: str) -> None:
        if not condition:
            raise EventOrderError(f"{what} may not come in phase {self._phase}.")


def spelled(event: JsonObject, names: Literal["openai", "open-responses"]) -> JsonObject:
    """The event as clients of the one or the other specification know it."""
    other = _OPEN_RESPONSES.get(event["type"]) if names == "open-responses" else None
    return event if other is None else {**event, "type": other}


def as_json(model: PydanticModel) -> JsonObject:
    """What was set of it, under the names of the wire."""
    # Without warnings: a response also shows what is only ours, such as formats of its text.
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
