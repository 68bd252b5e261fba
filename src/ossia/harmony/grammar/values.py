"""The values that a schema leaves, where they can be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ossia.harmony.grammar.disjoint import Resolve

Simple = str | int | float | bool | None
MAX_REFERENCES = 8


def listed_values(parent: Mapping[str, Any], key: str, resolve: Resolve) -> list[Simple] | None:
    """The simple values (no lists, no objects) that `parent[key]` may be, at most; None if unknown.

    References are followed; `const`, `enum` and the type boolean are understood.
    """
    schema: object = parent.get(key)
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return None
        if "const" in schema:
            return _simple([schema["const"]])
        if isinstance(schema.get("enum"), list):
            return _simple(schema["enum"])
        if schema.get("type") == "boolean":
            return [True, False]
        if schema.get("type") == "null":
            return [None]
        schema = resolve(schema["$ref"]) if "$ref" in schema else None
    return None


def without(values: Sequence[Simple], excluded: Sequence[Simple]) -> list[Simple]:
    """`values` that are not among `excluded`, as JSON compares: 1 is 1.0, but not true."""
    return [value for value in values if not any(_same(value, other) for other in excluded)]


def _same(one: Simple, other: Simple) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _simple(values: list[Any]) -> list[Simple] | None:
    if all(value is None or isinstance(value, str | int | float) for value in values):
        return values
    return None
