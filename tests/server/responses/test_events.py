"""Which event may follow which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ossia.server.responses.events import EventOrderError, EventSequence, spelled

MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "in_progress",
    "content": [],
}
CALL = {"id": "fc_1", "type": "function_call", "name": "f", "call_id": "c", "arguments": ""}
REMOTE = {"id": "mcp_1", "type": "mcp_call", "name": "f", "server_label": "s", "arguments": ""}
REASONING = {"id": "rs_1", "type": "reasoning", "summary": []}
TEXT = {"type": "output_text", "text": "", "annotations": []}
SUMMARY = {"type": "summary_text", "text": ""}
STEPS: Mapping[str, tuple[str, dict[str, Any]]] = {  # how each is written below
    "message": ("output_item.added", {"item": MESSAGE}),
    "message done": ("output_item.done", {"item": MESSAGE}),
    "reasoning": ("output_item.added", {"item": REASONING}),
    "function call": ("output_item.added", {"item": CALL}),
    "function call done": ("output_item.done", {"item": CALL}),
    "remote call": ("output_item.added", {"item": REMOTE}),
    "remote call done": ("output_item.done", {"item": REMOTE}),
    "remote call runs": ("mcp_call.in_progress", {}),
    "remote call completed": ("mcp_call.completed", {}),
    "remote call failed": ("mcp_call.failed", {}),
    "part": ("content_part.added", {"content_index": 0, "part": TEXT}),
    "part done": ("content_part.done", {"content_index": 0, "part": TEXT}),
    "text": ("output_text.delta", {"content_index": 0, "delta": "a", "logprobs": []}),
    "text done": ("output_text.done", {"content_index": 0, "text": "a", "logprobs": []}),
    "other text done": ("output_text.done", {"content_index": 0, "text": "b", "logprobs": []}),
    "no text done": ("output_text.done", {"content_index": 0, "text": "", "logprobs": []}),
    "thought": ("reasoning_text.delta", {"content_index": 0, "delta": "a"}),
    "summary part": ("reasoning_summary_part.added", {"summary_index": 0, "part": SUMMARY}),
    "summary": ("reasoning_summary_text.delta", {"summary_index": 0, "delta": "a"}),
    "arguments": ("function_call_arguments.delta", {"delta": "{}"}),
    "arguments done": ("function_call_arguments.done", {"arguments": "{}", "name": "f"}),
}
LIFE = ("created", "queued", "in_progress", "completed", "incomplete", "failed")


def walk(sequence: EventSequence, *steps: str) -> None:
    """Steps of the first item after `created` and `in_progress`, or phases by their names."""
    for step in steps:
        if step in LIFE:
            sequence.lifecycle(f"response.{step}", {"output": []})
        else:
            kind, fields = STEPS[step]
            sequence.emit(kind, 0, **fields)


RUNNING = ("created", "in_progress")


def test_open_responses_has_other_names_for_raw_reasoning() -> None:
    event = {"type": "response.reasoning_text.delta", "delta": "Hm", "sequence_number": 3}
    other = {**event, "type": "response.reasoning.delta"}
    assert (spelled(event, "openai"), spelled(event, "open-responses")) == (event, other)
    text = {**event, "type": "response.output_text.delta"}
    assert spelled(text, "open-responses") == text


@pytest.mark.parametrize(
    ("legal", "illegal"),
    [
        ((), "in_progress"),
        ((), "queued"),
        ((), "completed"),
        ((), "message"),
        (("created",), "created"),
        (("created",), "message"),
        (("created", "queued"), "message"),
        (RUNNING, "queued"),
        (RUNNING, "in_progress"),
        (RUNNING, "message done"),
        (RUNNING, "part"),
        ((*RUNNING, "completed"), "completed"),
        ((*RUNNING, "failed"), "completed"),
        ((*RUNNING, "completed"), "message"),
        ((*RUNNING, "message"), "message"),
        ((*RUNNING, "message"), "completed"),
        ((*RUNNING, "message"), "failed"),
        ((*RUNNING, "message", "message done"), "completed"),  # it lacks the item
        ((*RUNNING, "message", "message done"), "part"),
        ((*RUNNING, "message", "message done"), "message done"),
        ((*RUNNING, "message"), "function call done"),
        ((*RUNNING, "message"), "text"),
        ((*RUNNING, "message"), "no text done"),
        ((*RUNNING, "message"), "part done"),
        ((*RUNNING, "message"), "thought"),
        ((*RUNNING, "message"), "arguments"),
        ((*RUNNING, "message"), "remote call runs"),
        ((*RUNNING, "message", "part"), "part"),
        ((*RUNNING, "message", "part"), "message done"),
        ((*RUNNING, "message", "part", "text"), "part done"),
        ((*RUNNING, "message", "part", "text"), "other text done"),
        ((*RUNNING, "message", "part", "text"), "no text done"),
        ((*RUNNING, "message", "part"), "text done"),
        ((*RUNNING, "message", "part", "text", "text done", "part done"), "part done"),
        ((*RUNNING, "message", "part", "text", "text done", "part done"), "text"),
        ((*RUNNING, "reasoning"), "thought"),
        ((*RUNNING, "reasoning"), "text"),
        ((*RUNNING, "reasoning"), "summary"),
        ((*RUNNING, "reasoning", "summary part"), "summary part"),
        ((*RUNNING, "function call", "arguments"), "function call done"),
        ((*RUNNING, "function call"), "arguments done"),
        ((*RUNNING, "function call"), "remote call runs"),
        ((*RUNNING, "remote call"), "remote call completed"),
        ((*RUNNING, "remote call"), "remote call failed"),
        ((*RUNNING, "remote call", "remote call runs"), "remote call done"),
        ((*RUNNING, "remote call", "remote call runs", "remote call failed"), "remote call runs"),
        (
            (*RUNNING, "remote call", "remote call runs", "remote call failed"),
            "remote call completed",
        ),
        ((*RUNNING, "remote call"), "arguments"),
    ],
)
def test_an_event_out_of_order_is_not_let_through(legal: tuple[str, ...], illegal: str) -> None:
    sequence = EventSequence()
    walk(sequence, *legal)
    with pytest.raises(EventOrderError):
        walk(sequence, illegal)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda sequence: sequence.lifecycle("response.unknown", {"output": []}),
        lambda sequence: sequence.emit("output_item.added", 1, item=MESSAGE),
        lambda sequence: sequence.emit("content_part.added", 0, content_index=0, part=TEXT),
    ],
    ids=["no such phase", "an index is left out", "no such item"],
)
def test_what_never_comes_is_not_let_through(wrong: Callable[[EventSequence], Any]) -> None:
    sequence = EventSequence()
    walk(sequence, *RUNNING)
    with pytest.raises(EventOrderError):
        wrong(sequence)


def test_no_two_items_have_one_id() -> None:
    sequence = EventSequence()
    walk(sequence, *RUNNING, "message")
    with pytest.raises(EventOrderError):
        sequence.emit("output_item.added", 1, item=MESSAGE)


def test_progress_belongs_to_a_call_that_is_open() -> None:
    sequence = EventSequence()
    walk(sequence, *RUNNING, "remote call", "remote call runs")
    assert sequence.progress(0, "half")["item_id"] == "mcp_1"
    walk(sequence, "remote call completed", "remote call done")
    with pytest.raises(EventOrderError):
        sequence.progress(0, "late")


def test_several_calls_may_be_open_at_once() -> None:
    sequence = EventSequence()
    walk(sequence, *RUNNING)
    calls = [REMOTE | {"id": f"mcp_{number}"} for number in range(3)]
    for index, call in enumerate(calls):
        sequence.emit("output_item.added", index, item=call)
        sequence.emit("mcp_call.in_progress", index)
    for index in (2, 0, 1):
        sequence.emit("mcp_call.completed", index)
        sequence.emit("output_item.done", index, item=calls[index])
    last = sequence.lifecycle("response.completed", {"output": calls})
    assert last["sequence_number"] == 2 + 4 * len(calls)


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
@pytest.mark.parametrize("phases", [("created",), ("created", "queued"), RUNNING])
def test_a_response_ends_from_any_phase(phases: tuple[str, ...], end: str) -> None:
    sequence = EventSequence()
    walk(sequence, *phases)
    assert not sequence.is_ended
    walk(sequence, end)
    assert sequence.is_ended
