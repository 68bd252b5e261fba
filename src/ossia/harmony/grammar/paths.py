"""Where a turn's schemas stood in the request, so that an error can name the field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldPaths:
    """Names of fields as an API writes them. The defaults are those of Chat Completions."""

    tool_parameters: str = "tools[{index}].function.parameters"  # {index} counts the tools shown
    tools: str = "tools"
    tool_choice: str = "tool_choice"
    output: str = "response_format"  # the format as a whole
    output_schema: str = "response_format.json_schema.schema"
    pattern: str = "response_format.pattern"
    choices: str = "response_format.choices"
    grammar: str = "response_format.grammar"

    def tool(self, index: int) -> str:
        """Path of the parameters of the tool at this index."""
        return self.tool_parameters.replace("{index}", str(index))


CHAT_PATHS = FieldPaths()
