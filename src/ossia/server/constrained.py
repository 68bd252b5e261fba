"""What the turn grammar lets the model say in a turn, or why the turn needs a grammar."""

from __future__ import annotations

from ossia.engine.messages import Constraint
from ossia.errors import InvalidRequest
from ossia.harmony.grammar import FieldPaths
from ossia.server.service import Service
from ossia.turn import Turn


async def constrained_turn(
    service: Service, turn: Turn, paths: FieldPaths, max_reasoning_tokens: int | None
) -> Constraint | None:
    """The constraint of the turn; None where the grammar is off and nothing needs it.

    Raises:
        InvalidRequest: a grammar that cannot be enforced, or the grammar is off and needed.
        Overloaded: other grammars took all the time there was.
    """
    if service.grammars is None:
        _refuse_without_grammar(turn, paths, max_reasoning_tokens)
        return None
    _, constraint = await service.grammars.constrain(
        lambda: turn,
        at_once=not (turn.tools or turn.builtins or turn.output),
        max_reasoning_tokens=max_reasoning_tokens,
        paths=paths,
    )
    return constraint


def _refuse_without_grammar(
    turn: Turn, paths: FieldPaths, max_reasoning_tokens: int | None
) -> None:
    choice = turn.tool_choice
    for needed, name in (
        (choice.mode == "required" or choice.names is not None, paths.tool_choice),
        (turn.output is not None, paths.output),
        (max_reasoning_tokens is not None, "max_reasoning_tokens"),
    ):
        if needed:
            raise InvalidRequest(
                f"{name} needs the turn grammar, which --turn-grammar off turns off; start the "
                f"server without it, or leave out {name}.",
                param=name,
                code="unsupported_value",
            )
