"""Keywords of JSON schema that llguidance does not keep, said with those that it does.

Only exact rewritings are made. What they cannot say is `Unenforceable`: lists without doubles,
`contains`, and most of what needs the opposite of a schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.harmony.grammar.conditions import conditional
from ossia.harmony.grammar.disjoint import Resolve
from ossia.harmony.grammar.values import MAX_REFERENCES, listed_values, without
from ossia.harmony.grammar.words import IN_PLACE, TYPES, Unenforceable, are_names, types_of

Schema = Mapping[str, Any]
MAX_DEPENDENCIES = 8  # in one object: each doubles the ways in which it can be written

_REWRITTEN = frozenset(
    (
        *("dependencies", "dependentRequired", "dependentSchemas", "propertyNames"),
        *("unevaluatedProperties", "unevaluatedItems", "uniqueItems"),
        *("contains", "minContains", "maxContains", "not", "if", "then", "else"),
        *("$dynamicRef", "$recursiveRef"),
    )
)


def rewrite(raw: Schema, resolve: Resolve) -> Schema:
    """The same schema without the keywords above.

    Raises:
        Unenforceable: one of them says what cannot be said otherwise.
    """
    raw = _exactly_one(_with_context(raw))
    if _REWRITTEN.isdisjoint(raw):
        return raw
    for keyword in ("$dynamicRef", "$recursiveRef"):
        if keyword in raw:
            raise Unenforceable(keyword, "cannot be enforced; use $ref")
    plain = {key: value for key, value in raw.items() if key not in _REWRITTEN}
    joined: list[object] = []
    _arrays(raw, plain)
    _unevaluated(raw, plain)
    _property_names(raw, plain, resolve)
    joined += _dependencies(raw)
    if "not" in raw:
        joined += _opposite(raw["not"], plain, resolve)
    if "if" in raw:
        joined += conditional(raw, resolve)
    own = plain.get("allOf", [])
    if not isinstance(own, list):
        raise Unenforceable("allOf", "must be a list of JSON schemas")
    if joined:
        plain["allOf"] = [*own, *joined]
    return plain


def _with_context(raw: Schema) -> Schema:
    """Conditions under `allOf` speak of properties that stand beside it; show them there."""
    parts, properties = raw.get("allOf"), raw.get("properties")
    if not isinstance(parts, list) or not isinstance(properties, Mapping):
        return raw
    if raw.get("type", "object") != "object" or not any(_bare_condition(part) for part in parts):
        return raw
    beside = {"type": "object", "properties": properties}
    return {**raw, "allOf": [beside | p if _bare_condition(p) else p for p in parts]}


def _exactly_one(raw: Schema) -> Schema:
    """`oneOf` over which one of several properties is there: one is, the others are not."""
    options = raw.get("oneOf")
    if raw.get("type") != "object" or not isinstance(options, list) or "anyOf" in raw:
        return raw
    names = [name for name in map(_only_required, options) if name is not None]
    if len(names) < len(options) or len(set(names)) < len(names) or len(names) > MAX_DEPENDENCIES:
        return raw
    one = [
        {"required": [name], "properties": {other: False for other in names if other != name}}
        for name in names
    ]
    return {key: value for key, value in raw.items() if key != "oneOf"} | {"anyOf": one}


def _only_required(option: object) -> str | None:
    """The name, if all the schema says is that one property is required."""
    if not isinstance(option, Mapping) or option.keys() - {"title", "description", "required"}:
        return None
    match option.get("required"):
        case [str(name)]:
            return name
    return None


def _bare_condition(part: object) -> bool:
    return isinstance(part, Mapping) and "if" in part and "properties" not in part


def _arrays(raw: Schema, plain: dict[str, Any]) -> None:
    single = isinstance(plain.get("maxItems"), int) and plain["maxItems"] <= 1
    if raw.get("uniqueItems") and not single:
        raise Unenforceable("uniqueItems", "cannot be enforced; leave it out")
    if "contains" in raw and not (raw.get("minContains") == 0 and "maxContains" not in raw):
        raise Unenforceable("contains", "cannot be enforced; leave it out")


def _unevaluated(raw: Schema, plain: dict[str, Any]) -> None:
    """Without neighbours that evaluate anything, the same as the additional ones."""
    for keyword, plainly in (("unevaluatedProperties", "additionalProperties"),
                             ("unevaluatedItems", "items")):  # fmt: skip
        if raw.get(keyword, True) is True:
            continue
        if any(key in raw for key in (*IN_PLACE, "if", "dependentSchemas", "contains")):
            raise Unenforceable(
                keyword, f"cannot be enforced beside other schemas; use {plainly} in each of them"
            )
        plain.setdefault(plainly, raw[keyword])


def _property_names(raw: Schema, plain: dict[str, Any], resolve: Resolve) -> None:
    names = raw.get("propertyNames", True)
    if names is True:
        return
    rest = plain.get("additionalProperties", True)
    listed = listed_values({"propertyNames": names}, "propertyNames", resolve)
    own = plain.get("properties", {})
    if listed is not None and isinstance(own, Mapping) and "patternProperties" not in plain:
        allowed = [name for name in listed if isinstance(name, str)]
        plain["properties"] = {name: own.get(name, rest) for name in allowed}
        plain["additionalProperties"] = False
        return
    target = _target(names, resolve)
    if isinstance(target, Mapping) and not own and "patternProperties" not in plain:
        said = target.keys() - {"title", "description", "type"}
        pattern = target.get("pattern")
        if said and said <= {"minLength", "maxLength"}:
            pattern = f"^(?s:.{{{target.get('minLength', 0)},{target.get('maxLength', '')}}})$"
            said = {"pattern"}
        if said == {"pattern"} and isinstance(pattern, str):
            plain["patternProperties"] = {pattern: rest}
            plain["additionalProperties"] = False
            return
    says_nothing = isinstance(target, Mapping) and not target.keys() - {
        "title",
        "description",
        "type",
    }
    if isinstance(target, Mapping) and says_nothing and "string" in types_of(target):
        return
    raise Unenforceable(
        "propertyNames", "can be enforced as an enum, a pattern or a length, and nothing beside it"
    )


def _target(schema: object, resolve: Resolve) -> object:
    """The schema that a chain of references ends at."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            return schema
        schema = resolve(schema["$ref"])
    return None


def _dependencies(raw: Schema) -> list[object]:
    """If the property is there, so is what depends on it: it is not there, or the other is."""
    joined: list[object] = []
    count = 0
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        given = raw.get(keyword, {})
        if not isinstance(given, Mapping):
            raise Unenforceable(keyword, "must be an object")
        count += len(given)
        if count > MAX_DEPENDENCIES:
            raise Unenforceable(keyword, f"has more than {MAX_DEPENDENCIES} properties")
        for name, needs in given.items():
            then = {"required": needs} if isinstance(needs, list) else needs
            joined.append({"anyOf": [{"properties": {name: False}}, then]})
    return joined


def _opposite(schema: object, plain: dict[str, Any], resolve: Resolve) -> list[object]:
    """Schemas that together say the opposite of `schema`, next to the keywords in `plain`."""
    if isinstance(schema, bool):
        return [not schema]
    if not isinstance(schema, Mapping):
        raise Unenforceable("not", "must be a JSON schema")
    said = schema.keys() - {"title", "description"}
    if not said:
        return [False]
    if said == {"not"}:
        return [schema["not"]]
    if said == {"anyOf"} and isinstance(schema["anyOf"], list):
        # Beside the same values and types, so that each part sees what it is taken from.
        return [{**plain, "not": part} for part in schema["anyOf"]]
    if said == {"required"} and are_names(schema["required"]):
        absent: list[object] = [{"properties": {name: False}} for name in schema["required"]]
        return [{"type": "object"}, {"anyOf": absent or [False]}]
    if said == {"type"}:
        return [_other_types(schema, plain)]
    if said in ({"const"}, {"enum"}):
        return [_other_values(schema, plain, resolve)]
    raise Unenforceable(
        "not", "can be enforced for types, for required, and for values next to an enum"
    )


def _other_types(schema: Schema, plain: Schema) -> object:
    excluded, allowed = types_of(schema), types_of(plain)
    left = allowed - excluded
    if "number" in left and "integer" in excluded:
        raise Unenforceable("not", "cannot exclude whole numbers from numbers")
    return {"type": [kind for kind in TYPES if kind in left]} if left else False


def _other_values(schema: Schema, plain: Schema, resolve: Resolve) -> object:
    excluded = listed_values({"not": schema}, "not", resolve)
    allowed = listed_values({"own": plain}, "own", resolve)
    if excluded is None or allowed is None:
        raise Unenforceable("not", "can exclude values only next to an enum of simple values")
    left = without(allowed, excluded)
    return {"enum": left} if left else False
