"""Whatever the model and its tools do, clients get a legal stream that adds up to the output."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openai import omit
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    MessageClosed,
    MessageOpened,
    ReasoningText,
    TextToken,
    VisibleText,
)
from ossia.engine.messages import TokenLogprobs
from ossia.errors import RequestError
from ossia.harmony.tokenizer import Tokenizer
from ossia.server.responses.body import cancelled, ended, failed, new_body
from ossia.server.responses.events import PROGRESS, TERMINAL, EventSequence
from ossia.server.responses.output import OutputWriter, Shown
from ossia.server.responses.reasoning_seal import ReasoningSeal
from ossia.server.responses.replay import replayed
from ossia.server.responses.tools import ToolListing
from ossia.server.schema.responses import ResponsesRequest
from ossia.server.tool_loop import CallDone, CallProgress, LoopEvent
from ossia.server.toolset import Offer, Toolset
from ossia.server.usage import Usage
from ossia.tools.echo import Echo
from ossia.tools.tool import ToolOutput
from ossia.turn import BuiltinTool, ToolDefinition

JsonObject = dict[str, Any]

OFFERS = {
    "weather": Offer(ToolDefinition("weather"), "function", "weather"),
    "crm.find": Offer(ToolDefinition("crm.find"), "function", "find", "crm"),
    "patch": Offer(ToolDefinition("patch"), "custom", "patch"),
    "crm.note": Offer(ToolDefinition("crm.note"), "custom", "note", "crm"),
    "echo": Offer(ToolDefinition("echo"), "server", "echo", tool=Echo(), server_label="demo"),
    "delete": Offer(
        ToolDefinition("delete"),
        "server",
        "delete",
        tool=Echo(),
        server_label="files",
        needs_approval=True,
    ),
    **{
        name: Offer(BuiltinTool(name), "server", name, tool=Echo(), server_label="ossia")
        for name in ("python", "browser.search", "browser.open", "browser.find")
    },
}
RUN_HERE = [n for n, o in OFFERS.items() if o.kind == "server" and not o.needs_approval]

# What an item has only when it is done; everything else was told before, or by deltas.
LATE = {"status", "output", "error", "outputs", "action", "encrypted_content", "tools"}
# Fields of a Response that OpenAI's type does not have.
OURS = {"store", "presence_penalty", "frequency_penalty", "finish_details"}
EVENT_TYPES: Mapping[str, type[BaseModel]] = {
    get_args(event.model_fields["type"].annotation)[0]: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
}


@dataclass(frozen=True)
class Walk:
    """What happens in one response, up to where it ends."""

    shown: Shown
    listings: list[ToolListing]
    approved: list[str]  # ids of the requests
    events: list[LoopEvent]


texts = st.text(max_size=4)
logprobs = st.builds(TokenLogprobs, st.just(-0.5), st.just([(32, -0.5), (33, -1.5)]))
tokens = st.lists(st.builds(TextToken, st.integers(0, 199_000), logprobs), max_size=2).map(tuple)
visible = st.one_of(
    st.builds(VisibleText, texts, tokens),
    st.builds(VisibleText, st.sampled_from(["【3†L1-L2】", "see 【3】", "【4】"])),
)
arguments = st.one_of(
    st.lists(texts, max_size=3),
    st.sampled_from(
        [
            ['{"input": ', '"any"}'],
            ['{"query":"birds"}'],
            ['{"id": 3}'],
            ["[]"],
            ["1"],
            ["[" * 9999],
        ]
    ),
)
pages = st.just({"3": {"url": "https://birds.example", "title": "Birds"}})
actions = st.sampled_from(
    [
        {"type": "search", "query": "birds", "sources": [{"type": "url", "url": "https://b"}]},
        {"type": "open_page", "url": "https://birds.example"},
        {"type": "find_in_page", "pattern": "owl", "url": "https://birds.example"},
    ]
)
outputs = st.builds(
    ToolOutput,
    texts,
    st.booleans(),
    st.fixed_dictionaries({}, optional={"pages": pages, "action": actions}),
)
listings = st.builds(
    ToolListing, st.just("demo"), st.just([Echo()]), st.sampled_from([None, "It is away."])
)


@st.composite
def runs(draw: st.DrawFn, calls: list[str]) -> list[LoopEvent]:
    """Tools that run side by side until each has its output."""
    events: list[LoopEvent] = []
    running = list(calls)
    while running:
        call = draw(st.sampled_from(running))
        if draw(st.booleans()):
            events.append(CallProgress(call, draw(texts)))
        else:
            running.remove(call)
            events.append(CallDone(call, draw(outputs)))
    return events


@st.composite
def messages(draw: st.DrawFn, number: int) -> tuple[str | None, list[LoopEvent]]:
    """One message or call, and the name of what it calls."""
    kind = draw(st.sampled_from(["reasoning", "preamble", "answer", "call", "call"]))
    if kind == "call":
        name = draw(st.sampled_from(sorted(OFFERS)))
        written = [CallArguments(number, text) for text in draw(arguments)]
        return name, [CallStart(number, f"call_{number}", name), *written, MessageClosed(True)]
    said: st.SearchStrategy[LoopEvent] = visible
    if kind == "reasoning":
        said = st.builds(ReasoningText, texts)
    return None, [
        MessageOpened(kind),  # type: ignore[arg-type]
        *draw(st.lists(said, max_size=3)),
        MessageClosed(True),
    ]


@st.composite
def walks(draw: st.DrawFn) -> Walk:
    approved = draw(st.sampled_from([[], ["mcpr_1"], ["mcpr_1", "mcpr_2"]]))
    events = draw(runs(approved))
    goes_on, number = True, 0
    while goes_on and number < 8:
        called: dict[str, str] = {}
        for _ in range(draw(st.integers(0, 4))):
            name, message = draw(messages(number))
            events += message
            if name is not None:
                called[f"call_{number}"] = name
            number += 1
        here = [call for call, name in called.items() if name in RUN_HERE]
        events += draw(runs(here))
        goes_on = bool(here) and len(here) == len(called)
    events = events[: draw(st.one_of(st.just(len(events)), st.integers(0, len(events))))]
    opened = sum(isinstance(event, MessageOpened | CallStart) for event in events)
    closed = sum(isinstance(event, MessageClosed) for event in events)
    if opened > closed and draw(st.booleans()):
        events.append(MessageClosed(False))
    shown = draw(st.builds(Shown, *[st.booleans()] * 7))
    return Walk(shown, draw(st.lists(listings, max_size=2)), approved, events)


@dataclass(frozen=True)
class Played:
    writer: OutputWriter
    events: list[JsonObject]
    final: JsonObject


def play(walk: Walk, tokenizer: Tokenizer, seal: ReasoningSeal, status: str) -> Played:
    """As `ResponseRun` does it."""
    sequence = EventSequence()
    writer = OutputWriter(sequence, Toolset(OFFERS), tokenizer, seal, walk.shown, "resp_1")
    body = new_body(ResponsesRequest.model_validate({}), "resp_1", "model", None)
    events = [sequence.lifecycle("response.created", dict(body))]
    events.append(sequence.lifecycle("response.in_progress", dict(body)))
    for listing in walk.listings:
        events += writer.listing(listing)
    for approved in walk.approved:
        events += writer.approved(approved, "delete", '{"path": "/"}')
    for event in walk.events:
        events += writer.write(event)
    events += writer.end()
    usage = Usage(1, 0, 1, 0)
    match status:
        case "failed":
            final = failed(body, writer.output, usage, RequestError("No."))
        case "cancelled":
            final = cancelled(body, writer.output, usage)
        case _:
            reason = "length" if status == "incomplete" else "stop"
            final = ended(body, writer.output, usage, reason, None)  # type: ignore[arg-type]
    events.append(sequence.lifecycle(TERMINAL[status], final))
    assert sequence.is_ended
    return Played(writer, events, final)


def parsed(event: JsonObject) -> BaseModel:
    """As a client that is strict reads it."""
    found = EVENT_TYPES[event["type"]].model_validate_json(json.dumps(event), strict=True)
    assert set(found.model_extra or ()) <= {"name"}  # of arguments.done, where OpenAI sends it too
    if "response" in event:
        assert set(found.response.model_extra) <= OURS  # type: ignore[attr-defined]
    return found


def folded(events: list[JsonObject]) -> list[JsonObject]:
    """The output that a client puts together from what is added bit by bit."""
    items: list[JsonObject] = []
    whole: list[JsonObject] = []  # the same, as the events of their ends have them
    for event in events:
        item = items[event["output_index"]] if event.get("output_index", 99) < len(items) else {}
        parts = item.get("summary" if "summary" in event["type"] else "content", [])
        part = parts[-1] if parts else {}
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(items)
                items.append(copy.deepcopy(event["item"]))
                whole.append({})
            case "content_part.added":
                item.setdefault("content", []).append(copy.deepcopy(event["part"]))
            case "reasoning_summary_part.added":
                item["summary"].append(copy.deepcopy(event["part"]))
            case "output_text.delta":
                part["text"] += event["delta"]
                part.setdefault("logprobs", []).extend(event["logprobs"])
            case "reasoning_text.delta" | "reasoning_summary_text.delta":
                part["text"] += event["delta"]
            case "output_text.annotation.added":
                assert event["annotation_index"] == len(part["annotations"])
                part["annotations"].append(event["annotation"])
            case "function_call_arguments.delta" | "mcp_call_arguments.delta":
                item["arguments"] += event["delta"]
            case "custom_tool_call_input.delta":
                item["input"] += event["delta"]
            case "code_interpreter_call_code.delta":
                item["code"] += event["delta"]
            case "output_item.done":
                whole[event["output_index"]] = event["item"]
    for item, done in zip(items, whole, strict=True):
        for part, last in zip(item.get("content", []), done.get("content", []), strict=True):
            if "logprobs" not in last:  # they are told of where they were asked for
                assert not part.pop("logprobs", [])
            else:
                part.setdefault("logprobs", [])
        assert {k: v for k, v in item.items() if k not in LATE} == {
            k: v for k, v in done.items() if k not in LATE
        }
    return whole


@pytest.fixture(scope="session")
def play_walk(tokenizer: Tokenizer, seal: ReasoningSeal) -> Any:
    return lambda walk, status: play(walk, tokenizer, seal, status)


statuses = st.sampled_from(["completed", "completed", "incomplete", "failed", "cancelled"])


@settings(max_examples=200)
@given(walks(), statuses)
def test_every_stream_is_numbered_valid_and_adds_up_to_its_output(
    play_walk: Any, walk: Walk, status: str
) -> None:
    played = play_walk(walk, status)
    events = played.events
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert folded(events) == played.writer.output
    assert events[-1]["response"] == played.final
    assert played.final["output"] == played.writer.output
    if not walk.shown.progress:
        assert all(event["type"] != PROGRESS for event in events)
    client = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        if event["type"] != PROGRESS:
            client.handle_event(parsed(event))  # type: ignore[arg-type]
    if status == "completed":
        assert client._completed_response is not None
        read = client._completed_response.to_dict()["output"]
        assert [item["id"] for item in read] == [item["id"] for item in played.writer.output]  # type: ignore[attr-defined]


ASKING: list[LoopEvent] = [
    CallStart(0, "call_0", "delete"),
    CallArguments(0, '{"path": "/"}'),
    MessageClosed(True),
]


@settings(max_examples=100)
@example(Walk(Shown(), [], [], ASKING), "completed")
@given(walks(), statuses)
def test_a_response_that_has_ended_is_streamed_again(
    play_walk: Any, walk: Walk, status: str
) -> None:
    body = play_walk(walk, status).final
    events = replayed(body)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    client = ResponseStreamState(input_tools=omit, text_format=omit)
    for event in events:
        client.handle_event(parsed(event))  # type: ignore[arg-type]
    assert folded(events) == body["output"]
    assert events[-1]["response"] == body
