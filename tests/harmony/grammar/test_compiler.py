"""Compiled grammars are kept, shared and bounded."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import FieldPaths, GrammarCompiler
from ossia.harmony.grammar import compiler as module
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import OutputFormat, ToolChoice, ToolDefinition, Turn, UserMessage

TURN = Turn((), (ToolDefinition("f", parameters={"properties": {"a": {}, "b": {}}}),))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Turn]:
    """The turns whose grammars were made, not found."""
    turns: list[Turn] = []
    make = module.turn_parts

    def noting(turn: Turn, paths: FieldPaths) -> Any:
        turns.append(turn)
        time.sleep(0.05)
        return make(turn, paths)

    monkeypatch.setattr(module, "turn_parts", noting)
    return turns


@pytest.fixture(scope="module")
def fresh(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def test_turns_that_differ_in_messages_share_a_grammar(
    fresh: GrammarCompiler, compiled: list[Turn]
) -> None:
    first = fresh.compile(TURN)
    assert fresh.compile(replace(TURN, items=(UserMessage("Hi."),))) is first
    assert len(compiled) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(TURN, parallel_tool_calls=False),
        replace(TURN, tool_choice=ToolChoice("required")),
        replace(TURN, output=OutputFormat("json_object")),
        replace(TURN, tools=(ToolDefinition("f", parameters={"properties": {"b": {}, "a": {}}}),)),
        replace(TURN, tools=(replace(TURN.tools[0], strict=True),)),
        replace(TURN, tools=(replace(TURN.tools[0], name="g"),)),
    ],
)
def test_what_changes_the_grammar_is_another_one(
    fresh: GrammarCompiler, compiled: list[Turn], other: Turn
) -> None:
    fresh.compile(TURN)
    compiled.clear()
    fresh.compile(other)
    assert compiled == [other]


def test_threads_that_want_the_same_grammar_wait_for_one(
    fresh: GrammarCompiler, compiled: list[Turn]
) -> None:
    turn = replace(TURN, tools=(ToolDefinition("wanted_by_many"),))
    together = threading.Barrier(8)

    def compile_together(_: int) -> object:
        together.wait()
        return fresh.compile(turn)

    with ThreadPoolExecutor(8) as pool:
        grammars = list(pool.map(compile_together, range(8)))
    assert len(compiled) == 1
    assert all(grammar is grammars[0] for grammar in grammars)


def test_a_failure_is_told_to_all_who_wait_and_is_not_kept(
    fresh: GrammarCompiler, compiled: list[Turn]
) -> None:
    turn = Turn((), output=OutputFormat("regex", pattern="("))

    def refusal(_: int) -> str:
        with pytest.raises(InvalidRequest) as error:
            fresh.compile(turn)
        return str(error.value)

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(refusal, range(4)))) == 1
    made = len(compiled)
    refusal(0)
    assert len(compiled) == made + 1


def test_the_least_recently_used_grammars_are_dropped(
    tokenizer: Tokenizer, compiled: list[Turn]
) -> None:
    size = len(GrammarCompiler(tokenizer).compile(TURN).whole)
    compiler = GrammarCompiler(tokenizer, max_cached_characters=5 * size)
    turns = [replace(TURN, tools=(replace(TURN.tools[0], name=f"f{n}"),)) for n in range(3)]
    compiler.compile(turns[0])
    compiler.compile(turns[1])
    compiler.compile(turns[0])
    compiler.compile(turns[2])  # no room for three: turns[1] goes
    compiled.clear()
    compiler.compile(turns[0])
    assert compiled == []
    compiler.compile(turns[1])
    assert compiled == [turns[1]]


def test_errors_name_the_fields_of_the_api_at_hand(fresh: GrammarCompiler) -> None:
    tools = (ToolDefinition("f", parameters={"properties": {"a": {"pattern": "("}}}, strict=True),)
    paths = FieldPaths(tool_parameters="functions[{index}].parameters")
    with pytest.raises(InvalidRequest) as refusal:
        fresh.compile(Turn((), tools), paths)
    assert refusal.value.param == "functions[0].parameters.properties.a.pattern"
    with pytest.raises(InvalidRequest) as refusal:
        fresh.compile(Turn((), tools))
    assert refusal.value.param == "tools[0].function.parameters.properties.a.pattern"


def test_an_object_with_too_many_choices_is_noticed_before_it_runs(fresh: GrammarCompiler) -> None:
    properties = {f"p{n}": {"type": "null"} for n in range(1500)}
    schema = {"type": "object", "properties": properties}
    with pytest.raises(InvalidRequest) as refusal:
        fresh.compile(Turn((), output=OutputFormat("json_schema", schema=schema)))
    assert refusal.value.param == "response_format.json_schema.schema"
    fresh.compile(Turn((), output=OutputFormat("json_schema", schema=schema, strict=False)))


def test_there_may_be_many_tools_but_not_any_number(fresh: GrammarCompiler) -> None:
    tools = tuple(ToolDefinition(f"tool_{n}") for n in range(1025))
    fresh.compile(Turn((), tools[:1024]))
    with pytest.raises(InvalidRequest, match="at most 1024") as refusal:
        fresh.compile(Turn((), tools))
    assert refusal.value.param == "tools"


def test_tools_that_are_too_large_together_are_refused(fresh: GrammarCompiler) -> None:
    item = {"properties": {f"p{n}": {"type": "integer", "maximum": n} for n in range(400)}}
    tools = tuple(ToolDefinition(f"tool_{n}", parameters=item) for n in range(40))
    fresh.compile(Turn((), tools[:2]))
    with pytest.raises(InvalidRequest, match="fewer or smaller") as refusal:
        fresh.compile(Turn((), tools))
    assert refusal.value.param == "tools"
