"""What must hold for a tool before it is offered to a model."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from ossia.tools.tool import Tool

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def fault_of(tool: Tool) -> str | None:
    """What is wrong with the tool, as the end of a sentence that begins with it; or None."""
    # Strangers' classes: whatever an attribute should be, it may be absent or something else.
    name: object = getattr(tool, "name", None)
    if not isinstance(name, str):
        return "has no name"
    if fault := fault_of_name(name):
        return fault
    description: object = tool.description
    if not isinstance(description, str):
        return "has a description that is not a text"
    timeout: object = tool.timeout
    if not isinstance(timeout, int | float) or not (math.isfinite(timeout) and timeout > 0):
        return f"has a timeout that is not a number of seconds above 0: {timeout!r}"
    return _fault_of_schema(getattr(tool, "parameters", None))


def fault_of_name(name: str) -> str | None:
    """What is wrong with a tool's name, as `fault_of`."""
    if _NAME.fullmatch(name):
        return None
    return (
        f"has the name {name!r}, which is not 1 to 128 letters, digits, dots, hyphens or "
        "underscores"
    )


def plain_json(value: object) -> Any:
    """The same in dicts and lists; tools may use mappings of any kind.

    Raises:
        TypeError, ValueError, RecursionError: it is not JSON.
    """
    return json.loads(json.dumps(value, allow_nan=False, default=_as_dict))


def _as_dict(value: object) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no type of JSON")


def _fault_of_schema(schema: object) -> str | None:
    # Slow to import; a server without tools does not need it.
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.exceptions import SchemaError  # type: ignore[import-untyped]

    try:
        plain = plain_json(schema)
    except (TypeError, ValueError, RecursionError) as error:
        return f"has parameters that are not JSON: {error}"
    if not isinstance(plain, dict) or plain.get("type") != "object":
        return 'has parameters that are not a JSON schema of the type "object"'
    try:
        Draft202012Validator.check_schema(plain)
    except SchemaError as error:
        return f"has parameters that are not a JSON schema: {error.message}"
    return None
