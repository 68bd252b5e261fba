"""Chat Completions messages become a Turn."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Sequence

from ossia.errors import InvalidRequest
from ossia.server.schema.chat import (
    ChatMessage,
    ContentPart,
    MessageToolCall,
    NamedToolChoice,
    PromptOptions,
    ToolSpec,
)
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ReasoningEffort,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Turn,
    UserMessage,
)

_EFFORT = {
    "none": ReasoningEffort.LOW,
    "minimal": ReasoningEffort.LOW,
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
    "xhigh": ReasoningEffort.HIGH,
}
# The name becomes part of a message header, where blanks and signs mean something.
_TOOL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def chat_turn(
    messages: Sequence[ChatMessage], options: PromptOptions, date: datetime.date | None
) -> Turn:
    """The conversation up to where the model speaks; `date` stands in the system message.

    Raises:
        InvalidRequest: a message or a tool that gpt-oss has no place for; `param` is its path.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message.", param="messages")
    tools = tuple(_tools(options.tools or ()))
    if _hides_tools(options.tool_choice):
        tools = ()
    return Turn(
        items=tuple(_items(messages)),
        tools=tools,
        effort=_EFFORT[options.reasoning_effort or "medium"],
        date=date,
    )


def _items(messages: Sequence[ChatMessage]) -> Iterator[Item]:
    called: dict[str, str] = {}  # call id -> function name
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        match message.role:
            case "system" | "developer":
                yield Instructions(_required_text(message, path))
            case "user":
                yield UserMessage(_required_text(message, path))
            case "assistant":
                called |= {call.id: call.function.name for call in message.tool_calls or ()}
                yield from _assistant_items(message, path)
            case "tool":
                yield _tool_result(message, path, called)


def _assistant_items(message: ChatMessage, path: str) -> Iterator[Item]:
    calls = message.tool_calls or ()
    if reasoning := message.reasoning or message.reasoning_content:
        yield Reasoning(reasoning)
    # Text beside a call was said before it: a preamble.
    if text := _text(message, path):
        yield AssistantMessage(text, "commentary" if calls else "final")
    for index, call in enumerate(calls):
        yield _tool_call(call, f"{path}.tool_calls[{index}]")


def _tool_call(call: MessageToolCall, path: str) -> ToolCall:
    if call.type != "function":
        raise InvalidRequest(
            f"{path} is of type {call.type!r}; gpt-oss knows function calls only.",
            param=f"{path}.type",
        )
    _check_name(call.function.name, f"{path}.function.name")
    return ToolCall(call.id, call.function.name, call.function.arguments)


def _tool_result(message: ChatMessage, path: str, called: dict[str, str]) -> ToolResult:
    call_id = message.tool_call_id
    if call_id is None:
        raise InvalidRequest(
            f"{path}.tool_call_id is required in a tool message.",
            param=f"{path}.tool_call_id",
            code="missing_required_parameter",
        )
    name = called.get(call_id)
    if name is None:
        raise InvalidRequest(
            f"{path}.tool_call_id is {call_id[:80]!r}, but no earlier assistant message has a "
            "tool call with this id; send the assistant message with its tool_calls as well.",
            param=f"{path}.tool_call_id",
        )
    return ToolResult(call_id, name, _required_text(message, path))


def _required_text(message: ChatMessage, path: str) -> str:
    if message.content is None:
        raise InvalidRequest(
            f"{path}.content is required in a {message.role} message.",
            param=f"{path}.content",
            code="missing_required_parameter",
        )
    return _text(message, path)


def _text(message: ChatMessage, path: str) -> str:
    content = message.content
    if content is None or isinstance(content, str):
        return content or ""
    parts = (_part_text(part, f"{path}.content[{i}]") for i, part in enumerate(content))
    return "\n".join(parts)


def _part_text(part: ContentPart, path: str) -> str:
    if part.type in ("text", "input_text", "output_text") and part.text is not None:
        return part.text
    if part.type == "refusal" and part.refusal is not None:
        return part.refusal
    if part.type in ("text", "refusal"):
        raise InvalidRequest(
            f"{path}.{part.type} is required in a part of type {part.type}.",
            param=f"{path}.{part.type}",
            code="missing_required_parameter",
        )
    raise InvalidRequest(
        f"{path} is of type {part.type[:80]!r}; gpt-oss reads text only, send parts of type text.",
        param=f"{path}.type",
    )


def _tools(specs: Sequence[ToolSpec]) -> Iterator[ToolDefinition]:
    names: set[str] = set()
    for index, spec in enumerate(specs):
        path = f"tools[{index}]"
        if spec.type != "function":
            raise InvalidRequest(
                f"{path} is of type {spec.type[:80]!r}; only function tools can be used here.",
                param=f"{path}.type",
            )
        function = spec.function
        if function is None:
            raise InvalidRequest(
                f"{path}.function is required.",
                param=f"{path}.function",
                code="missing_required_parameter",
            )
        _check_name(function.name, f"{path}.function.name")
        if function.name in names:
            raise InvalidRequest(
                f"Two tools have the name {function.name!r}; each needs its own.",
                param=f"{path}.function.name",
            )
        names.add(function.name)
        yield ToolDefinition(
            name=function.name,
            description=function.description or "",
            parameters=function.parameters,
            strict=bool(function.strict),
        )


def _check_name(name: str, path: str) -> None:
    if not _TOOL_NAME.fullmatch(name):
        raise InvalidRequest(
            f"{path} is {name[:80]!r}; a name has 1 to 128 letters, digits, and the signs _ . -",
            param=path,
        )


def _hides_tools(choice: str | NamedToolChoice | None) -> bool:
    if choice is None or choice == "auto":
        return False
    if choice == "none":
        return True
    if choice == "required" or isinstance(choice, NamedToolChoice):
        raise InvalidRequest(
            "This server cannot force a tool call yet: that comes with the turn grammar; "
            "use tool_choice auto, or none to hide the tools.",
            param="tool_choice",
            code="unsupported_value",
        )
    raise InvalidRequest("tool_choice must be auto or none, or be left out.", param="tool_choice")
