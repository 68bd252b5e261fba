"""Items of the Responses API become the items of a turn.

Clients send back what they were sent, in many forms: messages without a type, reasoning with
`content: null`, calls of tools that the server ran. All of these are read; what gpt-oss has no
place for is refused with the path of the item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from ossia.errors import InvalidRequest
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.toolset import FREE_TEXT
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

JsonObject = Mapping[str, Any]

_SKIPPED = (  # what tells the client of tools, and nothing to the model
    *("mcp_list_tools", "tool_search_call", "tool_search_output", "configuration_update"),
    *("additional_tools", "compaction_trigger"),
)
# What gpt-oss cannot read, and agents send all the same: named in its place, so that their turn
# goes on and the model can say what it did not see.
_UNREADABLE = ("input_image", "input_file", "input_audio", "image", "image_url")
_NO_OUTPUT = "(The output of this call was not kept.)"


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a conversation before its new items are read.

    Attributes:
        calls: of functions of the client: the name that the model used, by call id.
        approvals: calls that wait for the client's yes, by the id of the request.
        name_of: (server label, name) of a tool that the server runs, to what the model calls it.
    """

    calls: Mapping[str, str] = field(default_factory=dict)
    approvals: Mapping[str, ToolCall] = field(default_factory=dict)
    name_of: Callable[[str, str], str] = lambda label, name: name


@dataclass(slots=True)
class ReadItems:
    """What the items say, and which calls the client has just allowed."""

    items: list[Item] = field(default_factory=list)
    approved: list[ToolCall] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)  # servers whose tools the client was told


def read_items(
    given: str | Sequence[JsonObject], known: Known, seal: ReasoningSeal, path: str = "input"
) -> ReadItems:
    """The items of a turn that `given` stands for.

    Raises:
        InvalidRequest: an item that gpt-oss has no place for; `param` is its path.
    """
    if isinstance(given, str):
        return ReadItems([UserMessage(given)])
    reader = _Reader(known, seal)
    for index, item in enumerate(given):
        reader.read(item, f"{path}[{index}]")
    return reader.result


class _Reader:
    def __init__(self, known: Known, seal: ReasoningSeal) -> None:
        self.result = ReadItems()
        self._known = known
        self._seal = seal
        self._calls = dict(known.calls)
        self._approvals = dict(known.approvals)
        self._answered: set[str] = set()  # of these

    def read(self, item: JsonObject, path: str) -> None:
        kind = item.get("type") or ("message" if "role" in item else None)
        match kind:
            case "message":
                self._add(_message(item, path))
            case "reasoning":
                self._reasoning(item, path)
            case "function_call":
                self._call(item, _required(item, "arguments", path), path)
            case "custom_tool_call":
                written = msgspec.json.encode({FREE_TEXT: _required(item, "input", path)})
                self._call(item, written.decode(), path)
            case "function_call_output" | "custom_tool_call_output":
                self._output(item, path)
            case "mcp_call":
                self._mcp_call(item, path)
            case "mcp_approval_request":
                self._approval_request(item, path)
            case "mcp_approval_response":
                self._approval_response(item, path)
            case "code_interpreter_call":
                self._code(item)
            case "web_search_call":
                self._search(item)
            case "compaction":
                sealed = _required(item, "encrypted_content", path)
                self.result.items += self._seal.open_items(sealed, path)
            case str() if kind in _SKIPPED:
                if kind == "mcp_list_tools" and not item.get("error"):
                    self.result.listed.add(str(item.get("server_label")))
            case _:
                raise InvalidRequest(
                    f"{path} is of type {str(kind)[:80]!r}, which this model cannot read; "
                    "leave it out, or send its content as a message.",
                    param=f"{path}.type",
                )

    def _add(self, item: Item) -> None:
        self.result.items.append(item)

    def _reasoning(self, item: JsonObject, path: str) -> None:
        parts = _objects(item.get("content"))
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        sealed = item.get("encrypted_content")
        if not texts and sealed and isinstance(sealed, str):
            texts = [self._seal.open_text(sealed, path)]
        text = "\n\n".join(texts)
        if not text:
            return
        last = self.result.items[-1] if self.result.items else None
        if isinstance(last, Reasoning):  # one thought, in two items
            self.result.items[-1] = Reasoning(f"{last.text}\n\n{text}")
        else:
            self._add(Reasoning(text))

    def _call(self, item: JsonObject, arguments: str, path: str) -> None:
        name = _required(item, "name", path)
        if namespace := item.get("namespace"):
            name = f"{namespace}.{name}"
        call_id = _required(item, "call_id", path)
        self._calls[call_id] = name
        self._add(ToolCall(call_id, name, arguments))

    def _output(self, item: JsonObject, path: str) -> None:
        call_id = _required(item, "call_id", path)
        name = self._calls.get(call_id)
        if name is None:
            raise InvalidRequest(
                f"{path}.call_id is {call_id[:80]!r}, but no earlier call has this id; send the "
                "call as well, or continue with previous_response_id.",
                param=f"{path}.call_id",
            )
        output = item.get("output")
        text = output if isinstance(output, str) else _output_text(output, f"{path}.output")
        self._add(ToolResult(call_id, name, text))

    def _mcp_call(self, item: JsonObject, path: str) -> None:
        name = self._known.name_of(str(item.get("server_label")), _required(item, "name", path))
        call_id = str(item.get("approval_request_id") or item.get("id"))
        if call_id in self._approvals:
            self._answered.add(call_id)
            self.result.approved = [c for c in self.result.approved if c.call_id != call_id]
        else:
            self._add(ToolCall(call_id, name, str(item.get("arguments") or "{}")))
        self._add(ToolResult(call_id, name, _mcp_output(item)))

    def _approval_request(self, item: JsonObject, path: str) -> None:
        name = self._known.name_of(str(item.get("server_label")), _required(item, "name", path))
        request_id = _required(item, "id", path)
        call = ToolCall(request_id, name, str(item.get("arguments") or "{}"))
        self._approvals[request_id] = call
        self._add(call)

    def _approval_response(self, item: JsonObject, path: str) -> None:
        request_id = _required(item, "approval_request_id", path)
        call = self._approvals.get(request_id)
        if call is None or request_id in self._answered:
            raise InvalidRequest(
                f"{path}.approval_request_id is {request_id[:80]!r}, but no request with this id "
                "waits for an answer; send the request as well, or previous_response_id, and "
                "answer it once.",
                param=f"{path}.approval_request_id",
            )
        self._answered.add(request_id)
        if item.get("approve"):
            self.result.approved.append(call)
            return
        reason = item.get("reason")
        text = "The user did not allow this call" + (f": {reason}" if reason else ".")
        self._add(ToolResult(call.call_id, call.name, text))

    def _code(self, item: JsonObject) -> None:
        call_id = str(item.get("id"))
        outputs = _objects(item.get("outputs"))
        logs = "".join(str(one.get("logs", "")) for one in outputs)
        self._add(ToolCall(call_id, "python", str(item.get("code") or ""), builtin=True))
        text = logs if outputs else _NO_OUTPUT
        self._add(ToolResult(call_id, "python", text, builtin=True))

    def _search(self, item: JsonObject) -> None:
        given = item.get("action")
        action: JsonObject = given if isinstance(given, Mapping) else {}
        kinds = {
            "search": ("browser.search", "query"),
            "open_page": ("browser.open", "url"),
            "find_in_page": ("browser.find", "pattern"),
        }
        name, key = kinds.get(str(action.get("type")), kinds["search"])
        argument = "id" if key == "url" else key
        call_id = str(item.get("id"))
        arguments = msgspec.json.encode({argument: str(action.get(key) or "")}).decode()
        self._add(ToolCall(call_id, name, arguments, builtin=True))
        self._add(ToolResult(call_id, name, _NO_OUTPUT, builtin=True))


def _message(item: JsonObject, path: str) -> Item:
    role = item.get("role")
    content = item.get("content")
    if content is None:
        raise _missing(f"{path}.content")
    match role:
        case "system" | "developer":
            return Instructions(_text(content, f"{path}.content"))
        case "user":
            return UserMessage(_text(content, f"{path}.content"))
        case "assistant":
            before_calls = item.get("phase") == "commentary"
            text = _text(content, f"{path}.content")
            return AssistantMessage(text, "commentary" if before_calls else "final")
    raise InvalidRequest(
        f"{path}.role is {str(role)[:80]!r}; use user, assistant, system or developer.",
        param=f"{path}.role",
    )


def _text(content: Any, path: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{path} must be a string or a list of parts.", param=path)
    return "\n".join(_part(part, f"{path}[{index}]") for index, part in enumerate(content))


def _part(part: Any, path: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("input_text", "output_text", "text", "summary_text", "reasoning_text"):
        return _required(part, "text", path)
    if kind == "refusal":
        return _required(part, "refusal", path)
    if kind in _UNREADABLE:
        return f"({kind.removeprefix('input_')} left out: the model reads text only)"
    raise InvalidRequest(
        f"{path} is of type {str(kind)[:80]!r}; gpt-oss reads text only, send parts of type "
        "input_text.",
        param=f"{path}.type",
    )


def _output_text(output: Any, path: str) -> str:
    """What a tool of the client answered."""
    if output is None:
        raise _missing(path)
    if isinstance(output, Mapping):
        return msgspec.json.encode(output).decode()
    if not isinstance(output, Sequence):
        return str(output)
    return _text(output, path)


def _mcp_output(item: JsonObject) -> str:
    error = item.get("error")
    if isinstance(error, Mapping):
        texts = (str(part.get("text", "")) for part in _objects(error.get("content")))
        error = error.get("message") or "\n".join(texts)
    return str(item.get("output") or error or _NO_OUTPUT)


def _objects(parts: Any) -> list[JsonObject]:
    """The objects of a list that clients echo; what else may stand there says nothing."""
    return [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list) else []


def _required(item: JsonObject, name: str, path: str) -> str:
    value = item.get(name)
    if value is None:
        raise _missing(f"{path}.{name}")
    if not isinstance(value, str):
        raise InvalidRequest(
            f"{path}.{name} must be a string.", param=f"{path}.{name}", code="invalid_type"
        )
    return value


def _missing(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path} is required.", param=path, code="missing_required_parameter")
