"""Tool declarations as the model knows them: a TypeScript-like namespace in the developer message.

oss-harmony writes the text. It knows a part of JSON schema and shows the rest as `any`, so a schema
is first put into the words it knows: references resolved, unions and constants spelled its way.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from openai_harmony import DeveloperContent, Message, Role, ToolDescription

from ossia.errors import InvalidRequest
from ossia.harmony.long_text import LONG_PIECE
from ossia.harmony.tokenizer import MESSAGE, Tokenizer, replace_surrogates
from ossia.turn import ToolDefinition

MAX_DEPTH = 24  # schemas nested deeper are shown as `any`
MAX_NODES = 10_000  # of one tool, references resolved; what is past is shown as `any`

_NAME = re.compile(r"[^\s<>|{}]{1,256}")
_LONG_RUN = re.compile(rf"[^ ]{{{LONG_PIECE},}}| {{{LONG_PIECE},}}")
# Keywords that let an object have something in it.
_ARGUMENTS = (
    *("properties", "additionalProperties", "patternProperties"),
    *("$ref", "anyOf", "oneOf", "allOf"),
)
_Schema = dict[str, Any]


def render_declarations(tools: Sequence[ToolDefinition], tokenizer: Tokenizer) -> str:
    """The `# Tools` section of the developer message, for one tool or more.

    Raises:
        InvalidRequest: a name that could not be called, or parameters that are no JSON schema.
    """
    runs: list[str] = []
    described = []
    for index, tool in enumerate(tools):
        param = f"tools[{index}]"
        if not _NAME.fullmatch(tool.name):
            raise InvalidRequest(
                f"The tool name {tool.name!r} must have 1 to 256 characters, "
                "none of them blank or one of <>|{}.",
                param=f"{param}.name",
            )
        if tool.parameters is not None and not isinstance(tool.parameters, Mapping):
            raise InvalidRequest(
                f"The parameters of the tool {tool.name!r} must be a JSON schema object.",
                param=f"{param}.parameters",
            )
        writer = _SchemaWriter(tool.parameters or {}, runs)
        description = "\n".join(writer.text(line) for line in tool.description.splitlines())
        described.append(
            ToolDescription.new(writer.text(tool.name), description, writer.parameters())
        )
    content = DeveloperContent.new().with_function_tools(described)
    ids = tokenizer.harmony.render(Message.from_role_and_content(Role.DEVELOPER, content))
    text = tokenizer.decode(ids[ids.index(MESSAGE) + 1 : -1])
    for number, run in enumerate(runs):
        text = text.replace(_placeholder(number), run)
    return text


def _placeholder(number: int) -> str:
    return f"\ue000{number}\ue001"


class _SchemaWriter:
    """Puts one tool's JSON schema into the words that oss-harmony shows.

    oss-harmony tokenizes what it writes, in time quadratic in long words; `runs` takes those, and
    a placeholder goes into the text.
    """

    def __init__(self, root: Mapping[str, Any], runs: list[str]) -> None:
        self._root = root
        self._runs = runs
        self._nodes = 0

    def parameters(self) -> _Schema | None:
        """The schema of the arguments; None for a function that takes none."""
        root = self._root
        if root.get("type", "object") == "object" and not any(map(root.get, _ARGUMENTS)):
            return None
        return self._schema(root, 0, frozenset())

    def text(self, text: object) -> str:
        """A string of the user's, as oss-harmony can take it."""

        def hide(run: re.Match[str]) -> str:
            self._runs.append(run.group())
            return _placeholder(len(self._runs) - 1)

        return _LONG_RUN.sub(hide, replace_surrogates(str(text)))

    def _schema(self, raw: object, depth: int, inside: frozenset[str]) -> _Schema:
        """`inside` names the references that led here: what refers to itself becomes `any`."""
        self._nodes += 1
        if not isinstance(raw, Mapping) or depth > MAX_DEPTH or self._nodes > MAX_NODES:
            return {}
        raw, inside = self._merged(raw, depth, inside)
        out: _Schema = {}
        for key in ("title", "description"):
            if isinstance(raw.get(key), str):
                out[key] = self.text(raw[key])
        if "default" in raw:
            out["default"] = self._value(raw["default"])
        if isinstance(raw.get("examples"), list):
            out["examples"] = [self.text(e) for e in raw["examples"] if isinstance(e, str)]
        if raw.get("nullable") is True:
            out["nullable"] = True
        variants = raw.get("oneOf") or raw.get("anyOf")
        if isinstance(variants, list):
            return self._union(out, variants, depth, inside)
        return self._typed(out, raw, depth, inside)

    def _merged(
        self, raw: Mapping[str, Any], depth: int, inside: frozenset[str]
    ) -> tuple[Mapping[str, Any], frozenset[str]]:
        """References and `allOf` folded into the schema that has them; its own keys win."""
        parts = [part for part in _list(raw, "allOf") if isinstance(part, Mapping)]
        reference = raw.get("$ref")
        if isinstance(reference, str):
            if reference in inside:
                return {}, inside
            inside |= {reference}
            parts.append(self._lookup(reference))
        if not parts or depth > MAX_DEPTH:
            return raw, inside
        merged: dict[str, Any] = {}
        own = {key: value for key, value in raw.items() if key not in ("$ref", "allOf")}
        for part in (*parts, own):
            folded, inside = self._merged(part, depth + 1, inside)
            properties = {**_mapping(merged, "properties"), **_mapping(folded, "properties")}
            required = [*_list(merged, "required"), *_list(folded, "required")]
            merged |= folded
            if properties:
                merged["properties"] = properties
            if required:
                merged["required"] = required
        return merged, inside

    def _lookup(self, reference: str) -> Mapping[str, Any]:
        """The schema that a JSON pointer inside this document names; {} where there is none."""
        if not reference.startswith("#"):
            return {}
        node: object = self._root
        for step in reference[1:].split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            node = node.get(step) if isinstance(node, Mapping) else None
        return node if isinstance(node, Mapping) else {}

    def _union(
        self, out: _Schema, variants: list[object], depth: int, inside: frozenset[str]
    ) -> _Schema:
        written = [self._schema(variant, depth + 1, inside) for variant in variants]
        if written and all(v.keys() == {"type"} and isinstance(v["type"], str) for v in written):
            return out | {"type": [v["type"] for v in written]}
        solid = [v for v in written if v.get("type") != "null"]
        if len(solid) < len(written):
            out["nullable"] = True
        if len(solid) == 1:
            return solid[0] | out
        if out.pop("nullable", False) and solid:
            solid[-1] = solid[-1] | {"nullable": True}
        return out | {"oneOf": solid}

    def _typed(
        self, out: _Schema, raw: Mapping[str, Any], depth: int, inside: frozenset[str]
    ) -> _Schema:
        kind = raw.get("type")
        values = [raw["const"]] if "const" in raw else _list(raw, "enum")
        names = [self.text(value) for value in values if isinstance(value, str)]
        if isinstance(kind, list):
            kinds = [self.text(k) for k in kind if isinstance(k, str)]
            solid = [k for k in kinds if k != "null"]
            # A list of types shows nothing else, so one type that may be null is said otherwise
            # where there is more to show.
            if len(solid) == 1 and (names or solid[0] in ("array", "object")):
                kind = solid[0]
                out["nullable"] = len(solid) < len(kinds)
            else:
                return out | {"type": kinds}
        if kind is None:
            kind = "object" if "properties" in raw else "array" if "items" in raw else None
            if names and len(names) + values.count(None) == len(values):
                kind = "string"
                out["nullable"] = len(names) < len(values)
        if not isinstance(kind, str):
            return out
        out["type"] = self.text(kind)
        if kind == "string" and names:
            out["enum"] = names
        elif kind == "array" and "items" in raw:
            out["items"] = self._schema(raw["items"], depth + 1, inside)
        elif kind == "object":
            out["properties"] = {
                self.text(key): self._schema(value, depth + 1, inside)
                for key, value in _mapping(raw, "properties").items()
            }
            out["required"] = [self.text(key) for key in _list(raw, "required")]
        return out

    def _value(self, value: object) -> object:
        """A default; what JSON cannot say as it stands is said as a string."""
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int) and abs(value) < 2**63:
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        if isinstance(value, str):
            return self.text(value)
        try:
            return self.text(json.dumps(value, ensure_ascii=False))
        except (TypeError, ValueError, RecursionError):
            return "..."


def _mapping(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = schema.get(key)
    return value if isinstance(value, Mapping) else {}


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
