"""Finding the place in a schema that llguidance cannot compile.

Its messages seldom say where. So the schemas inside of the schema are tried one by one, from the
outside in, as long as one of them fails by itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from ossia.harmony.grammar.schema import PreparedSchema

MAX_CHECKS = 500  # schemas tried for one fault

_SUSPECTS = ("pattern", "patternProperties", "multipleOf", "maxLength", "$ref", "anyOf")

_TOO_LARGE = ("panic", "precomputation", "too large", "too big", "too many", "max is")

Check = Callable[[dict[str, object]], str]  # from a schema to why it fails; "" if it does not


@dataclass(frozen=True, slots=True)
class Fault:
    """Where a schema fails, and why."""

    index: int  # of the place
    path: str  # of the schema or its keyword, as in the request
    keyword: str | None  # without which it would not fail, if there is one
    sentence: str  # goes on after the path


def find_fault(schema: PreparedSchema, check: Check, reason: str) -> Fault:
    """The innermost schema that fails by itself, where `schema` as a whole fails for `reason`."""
    inside = defaultdict(list)
    for index, place in enumerate(schema.places):
        if place.parent is not None:
            inside[place.parent].append(index)
    definitions = schema.document.get("$defs", {})
    checks, index = 0, 0
    while True:
        for candidate in inside[index]:
            checks += 1
            if checks > MAX_CHECKS:
                break
            found = check({**schema.places[candidate].node, "$defs": definitions})
            if found and _is_empty(found) == _is_empty(reason):
                index, reason = candidate, found
                break
        else:
            break
        if checks > MAX_CHECKS:
            break
    place = schema.places[index]
    for keyword in _SUSPECTS:
        if keyword in place.node:
            rest = {key: value for key, value in place.node.items() if key != keyword}
            if not check({**rest, "$defs": definitions}):
                return Fault(index, f"{place.path}.{keyword}", keyword, explain(reason))
    return Fault(index, place.path, None, explain(reason))


def _is_empty(reason: str) -> bool:
    return "nsatisfiable" in reason


def is_too_large(reason: str) -> bool:
    """Whether what failed is only the size."""
    return any(sign in reason for sign in _TOO_LARGE)


def explain(reason: str) -> str:
    """What llguidance says, as a sentence that goes on after a path."""
    if "never ends" in reason:
        return (
            "can be satisfied by nothing: what it demands is not allowed, or refers to itself "
            "without an end"
        )
    if _is_empty(reason) or "NoExtension" in reason:
        return "allows no text at all"
    if is_too_large(reason):
        return "is too large to be enforced; make it smaller"
    if "look-around" in reason or "lookaround" in reason:
        return (
            "cannot be enforced: looking ahead or behind, word boundaries, and anchors "
            "in the middle of a pattern are not supported"
        )
    if "circular references" in reason:
        return "cannot be enforced: a reference to itself must stand alone, without other keywords"
    if "regex parse error" in reason:
        return f"is not a regular expression that can be enforced ({_gist(reason)})"
    return f"cannot be enforced ({_gist(reason)})"


def _gist(reason: str) -> str:
    """The line that says what is wrong, without the excerpt around it."""
    lines = [line.strip() for line in reason.splitlines() if line.strip()]
    text = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "")
    text = text.removeprefix("error:").strip()
    return text if len(text) <= 160 else f"{text[:157]}..."
