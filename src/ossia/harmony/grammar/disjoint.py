"""Whether two schemas can never hold for the same value.

`oneOf` then means the same as `anyOf`. "No" is always a safe answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ossia.harmony.grammar.words import is_number, types_of

MAX_STEPS = 2_000  # pairs of schemas looked at in one comparison
MAX_DEPTH = 32  # of pairs within pairs; references may go in circles

Resolve = Callable[[object], object]  # from the value of a `$ref` to the schema


def disjoint(one: object, other: object, resolve: Resolve) -> bool:
    """Whether no value can satisfy both schemas, as far as that is easy to see."""
    return _Comparison(resolve).disjoint(one, other)


class _Comparison:
    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._steps = 0
        self._depth = 0

    def disjoint(self, one: object, other: object) -> bool:
        self._steps += 1
        if self._steps > MAX_STEPS or self._depth >= MAX_DEPTH:
            return False
        self._depth += 1
        try:
            return self._disjoint(one, other)
        finally:
            self._depth -= 1

    def _disjoint(self, one: object, other: object) -> bool:
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping):
            return False
        return self._parts(one, other) or self._parts(other, one) or self._own(one, other)

    def _parts(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether something that holds together with `one`'s keywords keeps it from `other`."""
        if "$ref" in one and self.disjoint(self._resolve(one["$ref"]), other):
            return True
        if any(self.disjoint(part, other) for part in _list(one, "allOf")):
            return True
        return any(
            _list(one, keyword) and all(self.disjoint(part, other) for part in one[keyword])
            for keyword in ("anyOf", "oneOf")
        )

    def _own(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        common = types_of(one) & types_of(other)
        if not common:
            return True
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not values & others
        if values is not None or others is not None:
            kinds = {kind for kind, _ in (values if values is not None else others) or ()}
            return not any(kind in common for kind in kinds)
        if common <= {"number", "integer"}:
            return _apart(one, other) or _apart(other, one)
        return common == {"object"} and (self._objects(one, other) or self._objects(other, one))

    def _objects(self, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Whether a property that `one` requires cannot be as both want it."""
        return any(
            isinstance(name, str) and self.disjoint(_property(one, name), _property(other, name))
            for name in _list(one, "required")
        )


def _property(schema: Mapping[str, Any], name: str) -> object:
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and name in properties:
        return properties[name]
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    return not closed


def _values(schema: Mapping[str, Any]) -> set[tuple[str, str]] | None:
    """The values that `const` or `enum` leave, as (type, text); None if it is not that simple."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    found = set()
    for value in values:
        if value is None:
            found.add(("null", ""))
        elif isinstance(value, bool):
            found.add(("boolean", str(value)))
        elif isinstance(value, str):
            found.add(("string", value))
        elif is_number(value):
            whole = value == int(value)
            found.add(("integer" if whole else "number", str(int(value) if whole else value)))
        else:
            return None
    return found


def _apart(low: Mapping[str, Any], high: Mapping[str, Any]) -> bool:
    """Whether all numbers of `low` are below those of `high`."""
    for top, top_open in (("maximum", False), ("exclusiveMaximum", True)):
        for bottom, bottom_open in (("minimum", False), ("exclusiveMinimum", True)):
            a, b = low.get(top), high.get(bottom)
            if is_number(a) and is_number(b) and (a < b or (a == b and (top_open or bottom_open))):
                return True
    return False


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    value = schema.get(key)
    return value if isinstance(value, list) else []
