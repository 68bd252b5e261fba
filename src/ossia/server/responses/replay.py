"""The events of a response that has ended, made again from what it came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ossia.server.responses.events import TERMINAL, EventSequence

Event = dict[str, Any]


def replayed(body: Event) -> list[Event]:
    """Events as they might have come, with each text in one piece; the last one has `body`."""
    sequence = EventSequence()
    begun = body | {"status": "in_progress", "output": [], "usage": None, "completed_at": None}
    events = [
        sequence.lifecycle("response.created", begun),
        sequence.lifecycle("response.in_progress", begun),
    ]
    for index, item in enumerate(body["output"]):
        events += _item_events(sequence, index, item)
    return [*events, sequence.lifecycle(TERMINAL[body["status"]], body)]


def _item_events(sequence: EventSequence, index: int, item: Event) -> Iterator[Event]:
    def emit(kind: str, **fields: Any) -> Event:
        return sequence.emit(kind, index, **fields)

    empty = {"content": [], "arguments": "", "summary": [], "code": "", "input": "", "tools": []}
    blank = {key: empty.get(key, value) for key, value in item.items()}
    if item["type"] == "mcp_approval_request":  # comes whole, without events of its own
        blank = dict(item)
    if "status" in item:
        blank["status"] = "in_progress"
    yield emit("output_item.added", item=blank)
    match item["type"]:
        case "message":
            yield from _parts(emit, "output_text", item["content"], logprobs=[])
        case "reasoning":
            yield from _parts(emit, "reasoning_text", item.get("content") or ())
            for number, part in enumerate(item["summary"]):
                where, text = {"summary_index": number}, part["text"]
                yield emit("reasoning_summary_part.added", **where, part={**part, "text": ""})
                yield emit("reasoning_summary_text.delta", **where, delta=text)
                yield emit("reasoning_summary_text.done", **where, text=text)
                yield emit("reasoning_summary_part.done", **where, part=part)
        case "function_call":
            yield emit("function_call_arguments.delta", delta=item["arguments"])
            yield emit(
                "function_call_arguments.done", arguments=item["arguments"], name=item["name"]
            )
        case "custom_tool_call":
            yield emit("custom_tool_call_input.delta", delta=item["input"])
            yield emit("custom_tool_call_input.done", input=item["input"])
        case "mcp_call":
            yield emit("mcp_call.in_progress")
            yield emit("mcp_call_arguments.delta", delta=item["arguments"])
            yield emit("mcp_call_arguments.done", arguments=item["arguments"])
            yield emit("mcp_call.failed" if item["status"] == "failed" else "mcp_call.completed")
        case "mcp_list_tools":
            yield emit("mcp_list_tools.in_progress")
            yield emit(f"mcp_list_tools.{'failed' if item.get('error') else 'completed'}")
        case "code_interpreter_call":
            yield emit("code_interpreter_call.in_progress")
            yield emit("code_interpreter_call_code.delta", delta=item["code"])
            yield emit("code_interpreter_call_code.done", code=item["code"])
            yield emit("code_interpreter_call.interpreting")
            yield emit("code_interpreter_call.completed")
        case "web_search_call":
            yield emit("web_search_call.in_progress")
            yield emit("web_search_call.searching")
            yield emit("web_search_call.completed")
    yield emit("output_item.done", item=item)


def _parts(emit: Any, kind: str, parts: Any, **more: Any) -> Iterator[Event]:
    for number, part in enumerate(parts):
        where, text = {"content_index": number}, part["text"]
        yield emit("content_part.added", **where, part={**part, "text": ""})
        yield emit(f"{kind}.delta", **where, delta=text, **more)
        yield emit(f"{kind}.done", **where, text=text, **more)
        yield emit("content_part.done", **where, part=part)
