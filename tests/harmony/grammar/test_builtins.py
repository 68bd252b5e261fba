"""Calls of the tools that gpt-oss was trained on, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler
from ossia.turn import BuiltinTool, OutputFormat, ToolChoice, ToolDefinition, Turn

Spelled = Callable[[str], list[int]]
Held = Any  # the class in conftest.py

QUERY = {
    "type": "object",
    "properties": {"query": {"type": "string"}},
    "required": ["query"],
    "additionalProperties": False,
}
PYTHON = BuiltinTool("python")
SEARCH = BuiltinTool("browser.search", QUERY)
CLOCK = ToolDefinition("clock")
NEXT = "<|end|><|start|>assistant"
THOUGHT = f"<|channel|>analysis<|message|>Hm.{NEXT}"
FINAL = "<|channel|>final<|message|>Hello.<|return|>"
CODE = "<|message|>print(1)<|call|>"
RUN = f"<|channel|>analysis to=python code{CODE}"
LOOK = '<|channel|>analysis to=browser.search code<|message|>{"query":"cats"}<|call|>'


@pytest.fixture
def accepts(compiler: GrammarCompiler, held: Held, spelled: Spelled) -> Callable[..., bool]:
    """accepts(text, built-in tools, **fields of the turn)."""

    def check(text: str, *builtins: BuiltinTool, **fields: Any) -> bool:
        grammar = compiler.compile(Turn((), builtins=builtins, **fields)).whole
        return bool(held.accepts(grammar, spelled(text)))

    return check


@pytest.mark.parametrize("kind", ["", " code", " json", "<|constrain|>json", " <|constrain|>json"])
def test_the_recipient_stands_in_either_part_and_the_type_may_be_left_out(
    accepts: Callable[..., bool], kind: str
) -> None:
    assert accepts(f"<|channel|>analysis to=python{kind}{CODE}", PYTHON)
    assert accepts(f" to=python<|channel|>analysis{kind}{CODE}", PYTHON)
    assert accepts(f"{THOUGHT}<|channel|>analysis to=python{kind}{CODE}", PYTHON)


def test_a_tool_that_the_turn_does_not_have_cannot_be_called(accepts: Callable[..., bool]) -> None:
    assert accepts(RUN, PYTHON)
    assert accepts(LOOK, SEARCH)
    assert not accepts(RUN, SEARCH)
    assert not accepts(LOOK, PYTHON)
    assert not accepts(RUN)


def test_calls_are_addressed_on_analysis_only(accepts: Callable[..., bool]) -> None:
    assert not accepts(f"<|channel|>commentary to=python code{CODE}", PYTHON)
    assert not accepts(f"<|channel|>analysis to=functions.python code{CODE}", PYTHON)


def test_arguments_follow_the_schema_of_the_tool(accepts: Callable[..., bool]) -> None:
    assert not accepts(LOOK.replace("query", "pattern"), SEARCH)
    assert not accepts(LOOK.replace('{"query":"cats"}', "cats"), SEARCH)


def test_functions_and_built_in_tools_do_not_share_a_turn_of_calls(
    accepts: Callable[..., bool],
) -> None:
    clock = "<|channel|>commentary to=functions.clock json<|message|>{}"
    assert accepts(f"{clock}<|call|>", PYTHON, tools=(CLOCK,))
    assert accepts(RUN, PYTHON, tools=(CLOCK,))
    assert not accepts(f"{clock}{NEXT}{RUN}", PYTHON, tools=(CLOCK,))


def test_a_formatted_answer_may_be_prepared_with_tools(accepts: Callable[..., bool]) -> None:
    output = OutputFormat("choice", choices=("yes",))
    assert accepts(RUN, PYTHON, output=output)
    assert accepts("<|channel|>final<|message|>yes<|return|>", PYTHON, output=output)
    assert not accepts(FINAL, PYTHON, output=output)


def test_a_choice_may_exclude_or_require_them(accepts: Callable[..., bool]) -> None:
    only_clock = ToolChoice("required", ("clock",), builtins=False)
    assert not accepts(RUN, PYTHON, tools=(CLOCK,), tool_choice=only_clock)
    required = ToolChoice("required")
    assert accepts(RUN, PYTHON, tool_choice=required)
    assert not accepts(FINAL, PYTHON, tool_choice=required)
    with pytest.raises(InvalidRequest, match="no tool that may be called"):
        accepts(RUN, PYTHON, tool_choice=ToolChoice("required", builtins=False))
