"""Whether something that a schema describes can ever be complete.

An object that requires itself never ends. A model held to it would write until it is stopped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def can_end(document: Mapping[str, Any]) -> bool:
    """Whether a prepared schema has a finite value, as far as references go."""
    definitions = document.get("$defs", {})
    ended: set[str] = set()
    waiting = set(definitions)
    while True:
        found = {name for name in waiting if _ends(definitions[name], ended)}
        if not found:
            return _ends(document, ended)
        ended |= found
        waiting -= found


def _ends(node: object, ended: set[str]) -> bool:
    """Whether a value of this schema can be complete with the definitions known to end."""
    if not isinstance(node, Mapping):
        return node is not False
    if "$ref" in node and node["$ref"].removeprefix("#/$defs/") not in ended:
        return False
    if not all(_ends(part, ended) for part in node.get("allOf", ())):
        return False
    if "anyOf" in node and not any(_ends(part, ended) for part in node["anyOf"]):
        return False
    kinds = node.get("type", "null")
    if "enum" in node or "const" in node:
        return True
    return any(
        _kind_ends(kind, node, ended) for kind in ([kinds] if isinstance(kinds, str) else kinds)
    )


def _kind_ends(kind: str, node: Mapping[str, Any], ended: set[str]) -> bool:
    if kind == "object":
        properties = node.get("properties", {})
        rest = node.get("additionalProperties", True)
        return all(_ends(properties.get(name, rest), ended) for name in node.get("required", ()))
    if kind == "array":
        least = node.get("minItems", 0)
        prefix = node.get("prefixItems", [])
        rest = node.get("items", True)
        return all(_ends(part, ended) for part in prefix[:least]) and (
            least <= len(prefix) or _ends(rest, ended)
        )
    return True
