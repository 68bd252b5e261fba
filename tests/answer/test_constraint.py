"""What the engine is told about a turn."""

from __future__ import annotations

import pytest

from ossia.answer.constraint import turn_constraint
from ossia.errors import InvalidRequest
from ossia.harmony.grammar import FieldPaths, GrammarCompiler
from ossia.harmony.tokenizer import CHANNEL, END, MESSAGE, Tokenizer
from ossia.turn import OutputFormat, ToolDefinition, Turn

TURN = Turn((), (ToolDefinition("f"),))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


def test_reasoning_is_the_phase_that_can_be_cut(
    compiler: GrammarCompiler, tokenizer: Tokenizer
) -> None:
    constraint = turn_constraint(compiler, TURN, max_reasoning_tokens=100)
    assert constraint.grammar == compiler.compile(TURN).whole
    limit = constraint.limit
    assert limit is not None
    assert limit.opening == [CHANNEL, *tokenizer.encode("analysis"), MESSAGE]
    assert limit.closing == END
    assert limit.then == compiler.compile(TURN).after_reasoning
    assert (limit.max_tokens, limit.stop_loops) == (100, True)


def test_loops_are_stopped_without_a_budget(compiler: GrammarCompiler) -> None:
    limit = turn_constraint(compiler, TURN).limit
    assert limit is not None
    assert (limit.max_tokens, limit.stop_loops) == (None, True)


def test_nothing_is_watched_where_nothing_is_to_be_cut(compiler: GrammarCompiler) -> None:
    assert turn_constraint(compiler, TURN).stop_loops
    without = turn_constraint(compiler, TURN, stop_loops=False)
    assert (without.limit, without.stop_loops) == (None, False)
    budget = turn_constraint(compiler, TURN, max_reasoning_tokens=0, stop_loops=False).limit
    assert budget is not None
    assert (budget.max_tokens, budget.stop_loops) == (0, False)


def test_errors_name_the_field_of_the_request(compiler: GrammarCompiler) -> None:
    turn = Turn((), output=OutputFormat("regex", pattern="("))
    with pytest.raises(InvalidRequest) as refusal:
        turn_constraint(compiler, turn, paths=FieldPaths(pattern="text.format.pattern"))
    assert refusal.value.param == "text.format.pattern"
