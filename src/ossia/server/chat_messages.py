"""Messages of Chat Completions become the items of a turn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ossia.errors import InvalidRequest
from ossia.server.chat_tools import check_name
from ossia.server.schema.messages import ChatMessage, ContentPart, FunctionCall, MessageToolCall
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

MAX_NAME = 256  # characters


def conversation_items(messages: Sequence[ChatMessage]) -> Iterator[Item]:
    """What the messages say, in order; one that says nothing gives no item.

    Raises:
        InvalidRequest: a message that gpt-oss has no place for; `param` is its path.
    """
    called: dict[str, str] = {}  # call id -> function name
    functions: set[str] = set()  # called in the older form, which has no ids
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        match message.role:
            case "system" | "developer":
                yield Instructions(_named(message, _required_text(message, path), path))
            case "user":
                yield UserMessage(_named(message, _required_text(message, path), path))
            case "assistant":
                for item in _assistant_items(message, path):
                    if isinstance(item, ToolCall):
                        called[item.call_id] = item.name
                        functions.add(item.name)
                    yield item
            case "tool":
                yield _tool_result(message, path, called)
            case "function":
                yield _function_result(message, path, functions)


def _named(message: ChatMessage, text: str, path: str) -> str:
    # The format has one user; what OpenAI's API calls a participant's name is told as text.
    name = message.name
    if not name:
        return text
    if len(name) > MAX_NAME or not name.isprintable():
        raise InvalidRequest(
            f"{path}.name must be one line of at most {MAX_NAME} characters.", param=f"{path}.name"
        )
    return f"{name}: {text}"


def _assistant_items(message: ChatMessage, path: str) -> Iterator[Item]:
    if message.audio is not None:
        raise InvalidRequest(
            f"{path}.audio cannot be read, because gpt-oss reads text only; send its transcript "
            "as content.",
            param=f"{path}.audio",
        )
    calls = message.tool_calls or ()
    if reasoning := message.reasoning or message.reasoning_content:
        yield Reasoning(reasoning)
    # Text beside a call was said before it: a preamble.
    if text := _text(message, path) or message.refusal:
        yield AssistantMessage(text, "commentary" if calls or message.function_call else "final")
    for index, call in enumerate(calls):
        yield _tool_call(call, f"{path}.tool_calls[{index}]")
    if message.function_call is not None:
        yield _function_call("", message.function_call, f"{path}.function_call")


def _tool_call(call: MessageToolCall, path: str) -> ToolCall:
    if call.type != "function":
        raise InvalidRequest(
            f"{path} is of type {call.type[:80]!r}; gpt-oss knows function calls only.",
            param=f"{path}.type",
        )
    if call.function is None:
        raise _missing(f"{path}.function")
    return _function_call(call.id, call.function, f"{path}.function")


def _function_call(call_id: str, call: FunctionCall, path: str) -> ToolCall:
    check_name(call.name, f"{path}.name")
    return ToolCall(call_id, call.name, call.arguments)


def _tool_result(message: ChatMessage, path: str, called: dict[str, str]) -> ToolResult:
    call_id = message.tool_call_id
    if call_id is None:
        raise _missing(f"{path}.tool_call_id", " in a tool message")
    name = called.get(call_id)
    if name is None:
        raise InvalidRequest(
            f"{path}.tool_call_id is {call_id[:80]!r}, but no earlier assistant message has a "
            "tool call with this id; send the assistant message with its tool_calls as well.",
            param=f"{path}.tool_call_id",
        )
    return ToolResult(call_id, name, _text(message, path))


def _function_result(message: ChatMessage, path: str, functions: set[str]) -> ToolResult:
    name = message.name
    if name is None:
        raise _missing(f"{path}.name", " in a function message")
    if name not in functions:
        raise InvalidRequest(
            f"{path}.name is {name[:80]!r}, but no earlier assistant message calls this function; "
            "send the assistant message with its function_call as well.",
            param=f"{path}.name",
        )
    return ToolResult("", name, _text(message, path))


def _required_text(message: ChatMessage, path: str) -> str:
    if message.content is None:
        raise _missing(f"{path}.content", f" in a {message.role} message")
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
        raise _missing(f"{path}.{part.type}", f" in a part of type {part.type}")
    raise InvalidRequest(
        f"{path} is of type {part.type[:80]!r}; gpt-oss reads text only, send parts of type text.",
        param=f"{path}.type",
    )


def _missing(path: str, where: str = "") -> InvalidRequest:
    return InvalidRequest(
        f"{path} is required{where}.", param=path, code="missing_required_parameter"
    )
