"""Tokens chosen at random from what the grammar allows make one well-formed turn."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.parser import HarmonyParser, MessageEnd, MessageStart, TextDelta
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import OutputFormat, ToolChoice, ToolDefinition, Turn

Held = Any  # the class in conftest.py
SMALL = st.sampled_from(
    [
        {"type": "null"},
        {"type": "boolean"},
        {"type": "integer"},
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "string", "maxLength": 4},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": "^[a-c]{1,3}\\W?$"},
        {"enum": ["a", "ab", 1, None]},
        {"const": {"k": [1.5, "\n"]}},
        {"type": "integer", "multipleOf": 3, "minimum": -10},
        {"$ref": "#/$defs/leaf"},
        {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "integer"}]},
    ]
)
NAMES = st.sampled_from(["a", "ab", "x y", "\u00e9", '"'])


def objects(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(NAMES, parts, max_size=3)
    return properties.flatmap(
        lambda listed: st.fixed_dictionaries(
            {"type": st.just("object"), "properties": st.just(listed)},
            optional={
                "required": st.lists(st.sampled_from(sorted(listed)), unique=True)
                if listed
                else st.just([]),
                "additionalProperties": st.one_of(st.just(False), parts),
            },
        )
    )


def containers(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    arrays = st.fixed_dictionaries(
        {"type": st.just("array"), "items": parts, "maxItems": st.integers(1, 3)},
        optional={"minItems": st.integers(0, 1), "prefixItems": st.lists(parts, max_size=2)},
    )
    either = st.lists(parts, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    return st.one_of(objects(parts), arrays, either)


SCHEMAS = st.recursive(SMALL, containers, max_leaves=6)
ARGUMENTS = objects(SCHEMAS).map(lambda schema: {**schema, "$defs": {"leaf": {"type": "null"}}})
TOOLS = st.lists(
    st.builds(
        ToolDefinition,
        name=st.sampled_from(["f", "get_weather", "get_weather_2", "a.b"]),
        parameters=st.one_of(st.none(), ARGUMENTS),
        strict=st.booleans(),
    ),
    max_size=3,
    unique_by=lambda tool: tool.name,
)
OUTPUTS = st.one_of(
    st.none(),
    ARGUMENTS.map(lambda schema: OutputFormat("json_schema", schema=schema)),
    st.just(OutputFormat("json_object")),
    st.just(OutputFormat("choice", choices=("yes", "yes!", "no\n"))),
    st.just(OutputFormat("regex", pattern="[ab]{2,4}/?")),
    st.just(OutputFormat("lark", pattern='start: "x" list\nlist: "," /[0-9]/ list | "."')),
)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    tools = tuple(draw(TOOLS))
    choice = ToolChoice()
    if tools:
        names = st.lists(st.sampled_from([tool.name for tool in tools]), min_size=1, unique=True)
        choice = draw(
            st.builds(
                ToolChoice,
                mode=st.sampled_from(["auto", "required"]),
                names=st.one_of(st.none(), names.map(tuple)),
            )
        )
    return Turn(
        (),
        tools,
        tool_choice=choice,
        parallel_tool_calls=draw(st.booleans()),
        output=draw(OUTPUTS),
    )


@dataclass
class Message:
    channel: str
    recipient: str | None
    text: str = ""
    end: str = ""


def messages(ids: Iterable[int], tokenizer: Tokenizer) -> list[Message]:
    parser = HarmonyParser(tokenizer)
    found: list[Message] = []
    for event in [*parser.feed(ids), *parser.finish()]:
        match event:
            case MessageStart(channel=channel, recipient=recipient):
                found.append(Message(channel, recipient))
            case TextDelta(text=text):
                found[-1].text += text
            case MessageEnd(reason=reason):
                found[-1].end = reason
    return found


def valid(schema: Any, text: str) -> bool:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    return jsonschema.Draft202012Validator(schema, format_checker=checker).is_valid(
        json.loads(text)
    )


def check(turn: Turn, ids: list[int], tokenizer: Tokenizer, *, thinks: bool) -> None:
    *between, last = messages(ids, tokenizer)
    calls = [m for m in [*between, last] if m.recipient is not None]
    others = [m for m in between if m.recipient is None]
    assert {m.channel for m in others} <= {
        *(["analysis"] if thinks else []),
        *(["commentary"] if turn.tools else []),
    }
    assert all(message.text and message.end == "end" for message in others)
    assert [m.end for m in [*calls, last]][:-2] == ["end"] * max(len(calls) - 1, 0)
    allowed = turn.tool_choice.names or tuple(tool.name for tool in turn.tools)
    parameters = {f"functions.{t.name}": t.parameters for t in turn.tools if t.name in allowed}
    for call in calls:
        assert call.channel == "commentary"
        assert isinstance(json.loads(call.text), dict)
        assert valid(parameters[str(call.recipient)] or {"maxProperties": 0}, call.text)
    if calls:
        assert last.end == "call"
        assert turn.parallel_tool_calls or len(calls) == 1
        return
    assert turn.tool_choice.mode == "auto"
    assert (last.channel, last.end) == ("final", "return")
    output = turn.output
    if output is None:
        assert last.text
    elif output.kind == "json_schema":
        assert valid(output.schema, last.text)
    elif output.kind == "json_object":
        assert isinstance(json.loads(last.text), dict)
    elif output.kind == "choice":
        assert last.text in output.choices


@given(turn=turns(), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_whatever_ends_is_one_well_formed_turn(
    compiler: GrammarCompiler, held: Held, tokenizer: Tokenizer, turn: Turn, seed: int
) -> None:
    grammar = compiler.compile(turn)
    source = random.Random(seed)
    ids = held.walk(grammar.whole, source)
    if ids is not None:
        check(turn, ids, tokenizer, thinks=True)
    begin, *rest = held.walk(grammar.after_reasoning, source) or [None]
    if begin is not None:
        check(turn, rest[len(tokenizer.encode("assistant")) :], tokenizer, thinks=False)


@pytest.mark.parametrize("seed", range(3))
def test_walks_come_to_an_end(
    compiler: GrammarCompiler, held: Held, tokenizer: Tokenizer, seed: int
) -> None:
    """So the test above has something to look at."""
    tools = (ToolDefinition("f", parameters={"properties": {"a": {"type": "string"}}}),)
    grammar = compiler.compile(Turn((), tools)).whole
    source = random.Random(seed)
    ended = [held.walk(grammar, source) for _ in range(10)]
    kinds = {messages(ids, tokenizer)[-1].end for ids in ended if ids is not None}
    assert kinds == {"call", "return"}
