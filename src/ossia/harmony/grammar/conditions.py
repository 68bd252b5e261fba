"""`if`, `then` and `else` without them: the condition and its consequence, or the opposite.

The opposite has to be said in words that can be enforced. That works for conditions on which
properties are there, and on the values of properties whose values are listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.harmony.grammar.disjoint import Resolve
from ossia.harmony.grammar.values import listed_values, without
from ossia.harmony.grammar.words import Unenforceable, are_names

Schema = Mapping[str, Any]
_SENTENCE = (
    "can be enforced for objects, where it names required properties or values (const, enum) of "
    "properties that are declared beside it with an enum"
)


def conditional(raw: Schema, resolve: Resolve) -> list[object]:
    """Schemas that say the same as the `if` of `raw` with what follows from it.

    Raises:
        Unenforceable: the condition has no opposite that can be enforced.
    """
    condition, then, otherwise = raw["if"], raw.get("then", True), raw.get("else", True)
    if isinstance(condition, bool):
        return [then if condition else otherwise]
    if then is True and otherwise is True:
        return []
    met: object = {"allOf": [condition, then]} if then is not True else condition
    missed = [
        {"allOf": [schema, otherwise]} if otherwise is not True else schema
        for schema in _opposites(condition, raw, resolve)
    ]
    return [{"anyOf": [met, *missed]}]


def _opposites(condition: object, raw: Schema, resolve: Resolve) -> list[Schema]:
    """Schemas of which at least one holds where the condition does not, and none where it does."""
    own = raw.get("properties", {})
    if (
        not isinstance(condition, Mapping)
        or not condition.keys() <= {"properties", "required", "title", "description", "type"}
        or condition.get("type", "object") != "object"
        or raw.get("type", "object") != "object"
        or not isinstance(own, Mapping)
        or ("type" not in raw and not own)
    ):
        raise Unenforceable("if", _SENTENCE)
    required = condition.get("required", [])
    named = condition.get("properties", {})
    if not are_names(required) or not isinstance(named, Mapping):
        raise Unenforceable("if", _SENTENCE)
    opposites: list[Schema] = [{"type": "object", "properties": {name: False}} for name in required]
    for name in named:
        excluded = listed_values(named, name, resolve)
        allowed = listed_values(own, name, resolve)
        if excluded is None or allowed is None:
            raise Unenforceable("if", _SENTENCE)
        left = without(allowed, excluded)
        if left:
            other = {"properties": {name: {"enum": left}}, "required": [name]}
            opposites.append({"type": "object", **other})
    return opposites
