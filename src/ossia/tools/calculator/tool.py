"""The calculator as a tool."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from ossia.tools.calculator.calculate import calculate
from ossia.tools.calculator.errors import TimeIsUp
from ossia.tools.tool import CallContext, Tool, ToolOutput

# What may be computed in the event loop itself; a thread costs more than most expressions.
_SHORT = 300  # characters
_AT_ONCE = 0.002  # seconds


class Calculator(Tool):
    """Computes expressions exactly where possible; `ossia.tools.calculator` has the grammar."""

    name = "calculator"
    description = (
        "Evaluates an arithmetic expression, exactly where possible. It knows + - * / // % ^ !, "
        "parentheses, pi, e, and functions such as sqrt, log(x, base), ln, sin, round(x, digits), "
        "min, max, comb, sum and mean; no variables."
    )
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "description": "For example: (1.05^10 - 1) * 2500, sqrt(2) / 3, comb(52, 5)",
            }
        },
        "required": ["expression"],
        "additionalProperties": False,
    }
    timeout = 10.0

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Raises CalculationError."""
        expression: str = arguments["expression"]
        if len(expression) <= _SHORT:
            try:
                return ToolOutput(calculate(expression, _AT_ONCE))
            except TimeIsUp:
                pass
        return ToolOutput(await asyncio.to_thread(calculate, expression))
