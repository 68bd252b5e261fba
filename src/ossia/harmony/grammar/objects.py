"""Objects: when one that lists its properties is closed, and how many properties it may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.harmony.grammar.words import IN_PLACE, Unenforceable, is_count

_OPEN_ENDED = ("additionalProperties", "patternProperties")


def closes(raw: Mapping[str, Any], node: Mapping[str, Any]) -> bool:
    """Whether the object gets no properties but those that it lists.

    So it is where a schema lists properties and does not speak of others, and no neighbour
    (`anyOf` and the like) brings properties of its own. What is written still validates.
    """
    listed = node.get("properties")
    if not listed or any(keyword in raw for keyword in _OPEN_ENDED):
        return False
    return all(_brings_none(raw[keyword], listed) for keyword in IN_PLACE if keyword in raw)


def _brings_none(parts: object, listed: Mapping[str, Any]) -> bool:
    """Whether schemas beside the object say no more than which listed properties it must have."""
    if not isinstance(parts, list):
        return False
    for part in parts:
        if isinstance(part, bool):
            continue
        if not isinstance(part, Mapping):
            return False
        for keyword, value in part.items():
            if keyword in ("anyOf", "allOf"):
                if not _brings_none(value, listed):
                    return False
            elif keyword in ("properties", "required"):
                names = value if isinstance(value, Mapping | list) else ()
                if not all(isinstance(name, str) and name in listed for name in names):
                    return False
            elif keyword not in ("type", "title", "description"):
                return False
    return True


def object_counts(raw: Mapping[str, Any], node: Mapping[str, Any], alone: bool) -> dict[str, Any]:
    """minProperties and maxProperties to write beside `node`, as far as they say anything.

    Names of properties that are not listed may come twice, and a reader then counts one. So of
    those no more than one can be demanded.

    Raises:
        Unenforceable: a combination that cannot be counted.
    """
    counts: dict[str, Any] = {}
    required = set(node.get("required", ()))
    optional = [
        name
        for name, schema in node.get("properties", {}).items()
        if name not in required and schema is not False
    ]
    closed = node.get("additionalProperties") is False and "patternProperties" not in node
    for keyword in ("minProperties", "maxProperties"):
        if keyword in raw and not is_count(raw[keyword]):
            raise Unenforceable(keyword, "must be a whole number, 0 or more")
    least = int(raw.get("minProperties", 0)) - len(required)
    if least > 0:
        if least > 1 or (optional and not closed):
            raise Unenforceable(
                "minProperties",
                "cannot be enforced here: it may ask for one property more than are required, "
                "in an object that lists either none of its optional properties or all",
            )
        counts["minProperties"] = int(raw["minProperties"])
    most = raw.get("maxProperties")
    if most is not None and not (alone and closed and most >= len(required) + len(optional)):
        if optional and not (closed and most - len(required) <= 1):
            raise Unenforceable(
                "maxProperties",
                "cannot be enforced here: all listed properties must be required, "
                "or all but one left out",
            )
        counts["maxProperties"] = min(int(most), 1 << 31)
    return counts
