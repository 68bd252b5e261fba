"""Three small functions that `ossia chat --tools demo` offers to the model and runs itself.

They are there to show tool calls; none of them touches files, the network or a shell.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
import operator
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ossia.turn import ToolDefinition

_MAX_EXPRESSION = 200  # characters
_MAX_BITS = 4096  # of a power's result
_SIGNS = str.maketrans({"^": "**", "\u00d7": "*", "\u00f7": "/", "\u2212": "-"})  # as people write

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@dataclass(frozen=True, slots=True)
class LocalTool:
    """A function that this process runs for the model."""

    definition: ToolDefinition
    run: Callable[[Mapping[str, Any]], str]  # ValueError: told to the model


def demo_tools() -> tuple[LocalTool, ...]:
    """Calculator, echo and time."""
    expression = {"type": "string", "description": "The expression, such as 2 + 3 * 4."}
    zone = {"type": "string", "description": "Time zone, such as Europe/Paris."}
    return (
        LocalTool(
            ToolDefinition(
                "calculator",
                "Evaluate an arithmetic expression.",
                _schema({"expression": expression}, required=["expression"]),
            ),
            lambda arguments: calculate(_text(arguments, "expression")),
        ),
        LocalTool(
            ToolDefinition(
                "echo", "Returns the text.", _schema({"text": {"type": "string"}}, ["text"])
            ),
            lambda arguments: _text(arguments, "text"),
        ),
        LocalTool(
            ToolDefinition("time", "Returns the current time.", _schema({"timezone": zone}, [])),
            lambda arguments: current_time(
                _text(arguments, "timezone") if arguments.get("timezone") else None
            ),
        ),
    )


def run_tool(tools: Sequence[LocalTool], name: str, arguments: str) -> str:
    """Run the call that the model wrote; `arguments` is its JSON text.

    Never raises for what a model can write: a wrong call is answered with a sentence that starts
    with "Error:", so that the model can try again.
    """
    tool = next((tool for tool in tools if tool.definition.name == name), None)
    if tool is None:
        offered = ", ".join(tool.definition.name for tool in tools) or "none"
        return f"Error: there is no function {name}; there are: {offered}."
    try:
        values = json.loads(arguments or "{}")
        if not isinstance(values, dict):
            raise ValueError("the arguments must be a JSON object")
        return tool.run(values)
    except (ValueError, ArithmeticError, RecursionError) as error:
        return f"Error: {error}."


def calculate(expression: str) -> str:
    """The value of an arithmetic expression: numbers, + - * / // % ** (or ^) and parentheses.

    Raises:
        ValueError: anything else, or a power too large to print.
        ZeroDivisionError: as it says.
    """
    if len(expression) > _MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {_MAX_EXPRESSION} characters")
    text = expression.translate(_SIGNS)
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, MemoryError) as error:
        raise ValueError(f"{expression!r} is not an arithmetic expression") from error
    value = _evaluate(tree.body)
    return str(value) if isinstance(value, int) else f"{value:.12g}"


def _evaluate(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return value
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            result = _UNARY[type(op)](_evaluate(operand))
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_evaluate(left), _evaluate(right))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            result = _BINARY[type(op)](_evaluate(left), _evaluate(right))
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not arithmetic")
    assert isinstance(result, int | float)
    return result


def _power(base: int | float, exponent: int | float) -> int | float:
    if base and abs(exponent) * abs(math.log2(abs(base))) > _MAX_BITS:
        raise ValueError("the power is too large")
    value = base**exponent
    if isinstance(value, complex):
        raise ValueError("the result is not a real number")
    return value


def current_time(zone: str | None) -> str:
    """Date and time now, in ISO 8601; of this machine's time zone, or of `zone`.

    Raises:
        ValueError: there is no such time zone.
    """
    try:
        now = datetime.datetime.now(zoneinfo.ZoneInfo(zone) if zone else None)
    except (zoneinfo.ZoneInfoNotFoundError, OSError, ValueError) as error:
        raise ValueError(f"there is no time zone {zone!r}") from error
    return now.astimezone(now.tzinfo).isoformat(timespec="seconds")


def _schema(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str | int | float):
        raise ValueError(f"the argument {name!r} must be a string")
    return str(value)
