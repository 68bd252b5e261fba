"""The grammars inside of a turn: the arguments of a function, the body of a formatted answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.lark import checked_lark
from ossia.harmony.grammar.paths import FieldPaths
from ossia.harmony.grammar.schema import PreparedSchema, prepare_schema
from ossia.turn import OutputFormat, ToolDefinition

MAX_CHOICES = 4_096
MAX_CHOICE_CHARACTERS = 256 * 1024  # of all choices together
MAX_PATTERN = 10_000  # characters

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_EMPTY_OBJECT: Mapping[str, Any] = {"type": "object", "additionalProperties": False}
# What makes an object schema speak of properties, in whatever way.
_SPEAKS = (
    *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
    *("minProperties", "unevaluatedProperties", "$ref", "anyOf", "oneOf", "allOf", "if"),
    *("enum", "const", "not", "dependentRequired", "dependentSchemas"),
)


@dataclass(slots=True)
class Part:
    """A grammar that the turn's rules name as `@name`."""

    name: str
    path: str  # of the field it comes from
    lark: str = ""
    schema: PreparedSchema | None = None

    def grammar(self) -> dict[str, Any]:
        """An entry of llguidance's list of grammars."""
        rules = {"lark_grammar": self.lark} if self.schema is None else self.schema.grammar()
        return {"name": self.name, **rules}


def arguments_part(name: str, tool: ToolDefinition, path: str) -> Part:
    """The arguments of a call: always an object; `{}` where the function declares no parameters.

    Raises:
        InvalidRequest: a strict schema that cannot be enforced, or one over the limits.
    """
    schema: object = {} if tool.parameters is None else tool.parameters
    if isinstance(schema, Mapping) and schema.get("type", "object") == "object":
        schema = {"type": "object", **schema}
        if not any(schema.get(keyword) for keyword in _SPEAKS):
            schema = _EMPTY_OBJECT
    elif tool.strict:
        raise InvalidRequest(
            f"`{path}` must be a JSON schema with the type 'object', "
            "because a function's arguments are an object.",
            param=path,
        )
    else:
        schema = ANY_OBJECT
    return Part(name, path, schema=prepare_schema(schema, path=path, strict=tool.strict))


def output_part(name: str, output: OutputFormat, paths: FieldPaths) -> Part:
    """The body of the final message.

    Raises:
        InvalidRequest: a format that cannot be enforced.
    """
    path = paths.output
    if output.kind == "json_object":
        return Part(name, path, schema=prepare_schema(ANY_OBJECT, path=path, strict=True))
    if output.kind == "json_schema":
        path = paths.output_schema
        schema: object = ANY_OBJECT if output.schema is None else output.schema
        if not output.strict and not isinstance(schema, Mapping | bool):
            schema = ANY_OBJECT
        return Part(name, path, schema=prepare_schema(schema, path=path, strict=output.strict))
    if output.kind == "regex":
        return Part(name, paths.pattern, lark=_regex(output.pattern, paths.pattern))
    if output.kind == "choice":
        return Part(name, paths.choices, lark=_choice(output.choices, paths.choices))
    return Part(name, paths.grammar, lark=checked_lark(output.pattern, paths.grammar))


def _regex(pattern: str, path: str) -> str:
    """The whole text matches, so anchors at the ends say nothing new."""
    if not pattern or len(pattern) > MAX_PATTERN:
        raise InvalidRequest(f"The pattern must have 1 to {MAX_PATTERN} characters.", param=path)
    pattern = pattern.removeprefix("^")
    backslashes = len(pattern) - 1 - len(pattern[:-1].rstrip("\\"))
    if pattern.endswith("$") and backslashes % 2 == 0:
        pattern = pattern[:-1]
    return f"start: TEXT\nTEXT: /{_in_slashes(pattern)}/\n" if pattern else 'start: ""\n'


def _in_slashes(pattern: str) -> str:
    """A pattern as it may stand between slashes on one line."""

    def escape(match: re.Match[str]) -> str:
        sign = match.group()
        return {"/": "\\/", "\n": "\\n", "\r": "\\r", "\\\n": "\\n", "\\\r": "\\r"}.get(sign, sign)

    return re.sub(r"\\.|/|\n|\r", escape, pattern, flags=re.DOTALL)


def _choice(choices: tuple[str, ...], path: str) -> str:
    if not choices or not all(choices) or len(set(choices)) < len(choices):
        raise InvalidRequest(
            "The choices must be a list of at least one string, all different and none empty.",
            param=path,
        )
    if len(choices) > MAX_CHOICES or sum(map(len, choices)) > MAX_CHOICE_CHARACTERS:
        raise InvalidRequest(
            f"There may be at most {MAX_CHOICES} choices with {MAX_CHOICE_CHARACTERS} characters "
            "in all.",
            param=path,
        )
    return "start: " + "\n  | ".join(map(_literal, choices)) + "\n"


def _literal(text: str) -> str:
    """A string of Lark. JSON's escapes are Lark's, but DEL has to be one."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
