"""A turn becomes the constraint that the engine applies to what the model writes."""

from __future__ import annotations

from ossia.engine.messages import Constraint, PhaseLimit
from ossia.harmony.grammar import CHAT_PATHS, FieldPaths, GrammarCompiler
from ossia.harmony.tokenizer import CHANNEL, END, MESSAGE
from ossia.turn import Turn


def turn_constraint(
    compiler: GrammarCompiler,
    turn: Turn,
    *,
    max_reasoning_tokens: int | None = None,
    stop_loops: bool = True,
    paths: FieldPaths = CHAT_PATHS,
) -> Constraint:
    """What the model may write in this turn, and how long it may think.

    May take milliseconds to compile: call it from a thread. `max_reasoning_tokens` counts the text
    of all analysis messages of the turn; None is no limit. With `stop_loops`, reasoning that
    repeats itself is cut short as well, and an answer or call that does so for long ends the turn.
    `paths` names the request's fields in errors.

    Raises:
        InvalidRequest: a schema or grammar that cannot be enforced; names the place in it.
    """
    grammar = compiler.compile(turn, paths)
    limit = None
    if max_reasoning_tokens is not None or stop_loops:
        limit = PhaseLimit(
            opening=[CHANNEL, *compiler.tokenizer.encode("analysis"), MESSAGE],
            closing=END,
            then=grammar.after_reasoning,
            max_tokens=max_reasoning_tokens,
            stop_loops=stop_loops,
        )
    return Constraint(grammar=grammar.whole, limit=limit, stop_loops=stop_loops)
