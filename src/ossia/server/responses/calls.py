"""Calls as output items: one small class for each form that OpenAI's API has for them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import msgspec

from ossia.server.responses.events import EventSequence
from ossia.server.responses.identifiers import Prefix, new_id
from ossia.server.toolset import FREE_TEXT, Offer
from ossia.tools.tool import ToolOutput

JsonObject = dict[str, Any]


def open_call(
    offer: Offer,
    call_id: str,
    index: int,
    sequence: EventSequence,
    output: list[JsonObject],
    *,
    container: str,
    approval: str | None,
    code_outputs: bool,
    sources: bool,
) -> OpenCall:
    """The form for a call of this offer.

    Args:
        index: of the item in `output`, to which it will be added.
        container: what code runs in, as the wire calls it.
        approval: the request that was approved, of a call that runs because of it.
        code_outputs: the item shows what code printed.
        sources: the item shows where a search looked.
    """
    base = (offer, call_id, index, sequence, output)
    if offer.kind == "function":
        return _FunctionCall(*base)
    if offer.kind == "custom":
        return _CustomCall(*base)
    if offer.needs_approval and approval is None:
        return _ApprovalRequest(*base)
    if offer.name == "python" and offer.is_builtin:
        return _CodeCall(*base, container=container, show=code_outputs)
    if offer.is_builtin:
        return _SearchCall(*base, show=sources)
    return _McpCall(*base, approval=approval)


class OpenCall(ABC):
    """A call from its start to its end. Each method gives the events of what happened.

    Attributes:
        index: of its item in the output.
        is_open: whether the item still waits for the output of a tool.
    """

    prefix: Prefix

    def __init__(
        self,
        offer: Offer,
        call_id: str,
        index: int,
        sequence: EventSequence,
        output: list[JsonObject],
    ) -> None:
        self.call_id = call_id
        self.index = index
        self.is_open = True
        self.offer = offer
        self._id = new_id(self.prefix)
        self._sequence = sequence
        self._output = output
        self._arguments: list[str] = []

    @property
    def arguments(self) -> str:
        """What was written of them so far."""
        return "".join(self._arguments)

    def begin(self) -> Iterator[JsonObject]:
        """The model begins to write it."""
        yield self._add(self._item("in_progress"))

    @abstractmethod
    def write(self, text: str) -> Iterator[JsonObject]:
        """More of its arguments."""

    @abstractmethod
    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        """Its arguments are all there; not `whole` if they were cut off."""

    def done(self, output: ToolOutput) -> Iterator[JsonObject]:
        """The server ran it. A call that the client runs has nothing to say of that."""
        yield from ()

    def abandon(self) -> Iterator[JsonObject]:
        """The response ends before the call does."""
        yield from self.done(ToolOutput("The call was stopped.", is_error=True))

    @abstractmethod
    def _item(self, status: str) -> JsonObject:
        """The item as it is now."""

    def _add(self, item: JsonObject) -> JsonObject:
        self._output.append(item)
        return self._sequence.emit("output_item.added", self.index, item=item)

    def _end(self, item: JsonObject) -> JsonObject:
        self.is_open = False
        self._output[self.index] = item
        return self._sequence.emit("output_item.done", self.index, item=item)

    def _emit(self, kind: str, **fields: Any) -> JsonObject:
        return self._sequence.emit(kind, self.index, **fields)


class _FunctionCall(OpenCall):
    """Of the client's own function: done when it is written."""

    prefix: Prefix = "fc"

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield self._emit("function_call_arguments.delta", delta=text)

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        yield self._emit(
            "function_call_arguments.done", arguments=self.arguments, name=self.offer.wire_name
        )
        yield self._end(self._item("completed" if whole else "incomplete"))

    def _item(self, status: str) -> JsonObject:
        item = {
            "id": self._id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.offer.wire_name,
            "arguments": self.arguments,
            "status": status,
        }
        return item | ({"namespace": self.offer.namespace} if self.offer.namespace else {})


class _CustomCall(OpenCall):
    """Of a client's tool that takes free text, which the model writes as a JSON string."""

    prefix: Prefix = "ctc"

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield from ()

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        text = self._text()
        if text:
            yield self._emit("custom_tool_call_input.delta", delta=text)
        yield self._emit("custom_tool_call_input.done", input=text)
        yield self._end(self._item("completed" if whole else "incomplete"))

    def _text(self) -> str:
        try:
            return str(msgspec.json.decode(self.arguments)[FREE_TEXT])
        except (msgspec.DecodeError, RecursionError, KeyError, TypeError):
            return self.arguments

    def _item(self, status: str) -> JsonObject:
        item = {
            "id": self._id,
            "type": "custom_tool_call",
            "call_id": self.call_id,
            "name": self.offer.wire_name,
            "input": "" if status == "in_progress" else self._text(),
            "status": status,
        }
        return item | ({"namespace": self.offer.namespace} if self.offer.namespace else {})


class _ApprovalRequest(OpenCall):
    """Of a tool that may not run before the client has said yes. Shown when it is whole."""

    prefix: Prefix = "mcpr"

    def begin(self) -> Iterator[JsonObject]:
        yield from ()

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield from ()

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        self.is_open = False
        if whole:
            self.index = len(self._output)
            yield self._add(self._item(""))
            yield self._end(self._item(""))

    def _item(self, status: str) -> JsonObject:
        return {
            "id": self._id,
            "type": "mcp_approval_request",
            "server_label": self.offer.server_label,
            "name": self.offer.wire_name,
            "arguments": self.arguments,
        }


class _McpCall(OpenCall):
    """Of a tool that the server runs."""

    prefix: Prefix = "mcp"

    def __init__(self, *base: Any, approval: str | None) -> None:
        super().__init__(*base)
        self._approval = approval
        self._result: ToolOutput | None = None

    def begin(self) -> Iterator[JsonObject]:
        yield from super().begin()
        yield self._emit("mcp_call.in_progress")

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield self._emit("mcp_call_arguments.delta", delta=text)

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        yield self._emit("mcp_call_arguments.done", arguments=self.arguments)
        if not whole:
            yield from self.abandon()

    def done(self, output: ToolOutput) -> Iterator[JsonObject]:
        self._result = output
        status = "failed" if output.is_error else "completed"
        yield self._emit(f"mcp_call.{status}")
        yield self._end(self._item(status))

    def _item(self, status: str) -> JsonObject:
        result = self._result
        failed = result is not None and result.is_error
        item: JsonObject = {
            "id": self._id,
            "type": "mcp_call",
            "server_label": self.offer.server_label,
            "name": self.offer.wire_name,
            "arguments": self.arguments,
            "approval_request_id": self._approval,
            "status": status,
            "output": None if result is None or failed else result.text,
            "error": None,
        }
        if result is not None and failed:
            item["error"] = mcp_error(result.text)
        return item


class _CodeCall(OpenCall):
    """Code that the server runs."""

    prefix: Prefix = "ci"

    def __init__(self, *base: Any, container: str, show: bool) -> None:
        super().__init__(*base)
        self._container = container
        self._show = show
        self._result: ToolOutput | None = None

    def begin(self) -> Iterator[JsonObject]:
        yield from super().begin()
        yield self._emit("code_interpreter_call.in_progress")

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield self._emit("code_interpreter_call_code.delta", delta=text)

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        yield self._emit("code_interpreter_call_code.done", code=self.arguments)
        yield self._emit("code_interpreter_call.interpreting")
        if not whole:
            yield from self.abandon()

    def done(self, output: ToolOutput) -> Iterator[JsonObject]:
        self._result = output
        yield self._emit("code_interpreter_call.completed")
        yield self._end(self._item("failed" if output.is_error else "completed"))

    def _item(self, status: str) -> JsonObject:
        outputs = None
        if self._result is not None and self._show:
            outputs = [{"type": "logs", "logs": self._result.text}]
        return {
            "id": self._id,
            "type": "code_interpreter_call",
            "container_id": self._container,
            "code": self.arguments,
            "outputs": outputs,
            "status": status,
        }


class _SearchCall(OpenCall):
    """A look into the browser, which the server runs. Shown when it is whole."""

    prefix: Prefix = "ws"

    def __init__(self, *base: Any, show: bool) -> None:
        super().__init__(*base)
        self._show = show
        self._action: JsonObject = {"type": "search", "query": ""}

    def begin(self) -> Iterator[JsonObject]:
        yield from super().begin()
        yield self._emit("web_search_call.in_progress")

    def write(self, text: str) -> Iterator[JsonObject]:
        self._arguments.append(text)
        yield from ()

    def written(self, *, whole: bool = True) -> Iterator[JsonObject]:
        self._action = _planned_action(self.offer.name, self.arguments)
        yield self._emit("web_search_call.searching")
        if not whole:
            yield from self.abandon()

    def done(self, output: ToolOutput) -> Iterator[JsonObject]:
        self._action = dict(output.details.get("action") or self._action)
        if not self._show:
            self._action.pop("sources", None)
        yield self._emit("web_search_call.completed")
        yield self._end(self._item("failed" if output.is_error else "completed"))

    def _item(self, status: str) -> JsonObject:
        return {
            "id": self._id,
            "type": "web_search_call",
            "status": status,
            "action": self._action,
        }


def mcp_error(sentence: str) -> JsonObject:
    """Why a call failed, in the form of an `mcp_call` item."""
    return {
        "type": "mcp_tool_execution_error",
        "content": [{"type": "text", "text": sentence}],
    }


def _planned_action(name: str, arguments: str) -> JsonObject:
    """What a call of the browser asks for, in the words of the API."""
    try:
        given = msgspec.json.decode(arguments, type=dict)
    except (msgspec.DecodeError, RecursionError):  # models write what they like
        given = {}
    if name == "browser.open":
        return {"type": "open_page", "url": str(given.get("id", ""))}
    if name == "browser.find":
        return {"type": "find_in_page", "pattern": str(given.get("pattern", "")), "url": ""}
    return {"type": "search", "query": str(given.get("query", ""))}
