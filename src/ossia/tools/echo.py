"""Says what it is told; for trying out tool calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.tools.tool import CallContext, Tool, ToolOutput


class Echo(Tool):
    """Returns its argument."""

    name = "echo"
    description = "Returns the given text unchanged."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {"text": {"type": "string", "description": "What to return"}},
        "required": ["text"],
        "additionalProperties": False,
    }

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return ToolOutput(arguments["text"])
