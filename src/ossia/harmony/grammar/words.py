"""Words of JSON schema that several parts of the reader share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
IN_PLACE = ("$ref", "allOf", "anyOf", "oneOf")  # hold for the same value as their neighbours


class Unenforceable(Exception):
    """A keyword cannot be enforced; `sentence` goes on after the path of the keyword."""

    def __init__(self, keyword: str, sentence: str) -> None:
        super().__init__(f"{keyword} {sentence}")
        self.keyword = keyword
        self.sentence = sentence


def is_number(value: Any) -> TypeGuard[int | float]:
    """A JSON number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)


def is_count(value: Any) -> bool:
    """A whole number, 0 or more; 2.0 counts as 2."""
    return is_number(value) and value >= 0 and int(value) == value


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def are_names(value: Any) -> bool:
    """Whether this is a list of property names."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def types_of(raw: Mapping[str, Any]) -> set[str]:
    """The types that a schema's own `type` allows, with integer as a part of number."""
    given = raw.get("type", list(TYPES))
    kinds = {kind for kind in (given if isinstance(given, list) else [given]) if kind in TYPES}
    return kinds | {"integer"} if "number" in kinds else kinds
