"""Strict schemas with many keywords in one: whatever is written at random validates."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import OutputFormat, Turn

Held = Any  # the class in conftest.py
NAMES = ("a", "b", "c", "kind")
LEAVES: tuple[Any, ...] = (
    {"type": "integer", "minimum": -2, "maximum": 12},
    {"type": "number", "exclusiveMinimum": -1.5, "maximum": 3.25},
    {"type": "string", "minLength": 1, "maxLength": 3},
    {"type": "string", "pattern": "^[ab]{1,2}$"},
    {"type": "string", "format": "date"},
    {"type": ["string", "null"], "maxLength": 2},
    {"enum": ["a", 1, None, True, 1.5]},
    {"const": "x"},
    {"$ref": "#/$defs/A"},
    {"$ref": "#/$defs/B"},
    {"not": {"type": ["object", "array"]}},
    {"minimum": 3},
    {},
    False,
)
BESIDE: tuple[dict[str, Any], ...] = (
    {"additionalProperties": False},
    {"additionalProperties": {"type": "null"}},
    {"patternProperties": {"^x": {"type": "null"}}},
    {"dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"b": {"properties": {"c": {"const": 1}}}}},
    {"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["a"]}},
    {
        "if": {"properties": {"kind": {"enum": ["x", "y"]}}, "required": ["kind"]},
        "else": {"properties": {"a": {"type": "null"}}},
    },
    {"if": {"required": ["a"]}, "then": {"required": ["b"]}, "else": {"required": ["c"]}},
    {"allOf": [{"if": {"properties": {"kind": {"const": "z"}}}, "then": {"required": ["c"]}}]},
    {"not": {"required": ["a", "b"]}},
    {"not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}},
    {"anyOf": [{"required": ["a"]}, {"properties": {"b": {"type": "null"}}}]},
    {"oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
    {"allOf": [{"properties": {"c": {"type": "integer"}}, "required": ["c"]}]},
    {"$ref": "#/$defs/A"},
    {"minProperties": 1},
    {"maxProperties": 2},
    {"propertyNames": {"maxLength": 2}},
    {"unevaluatedProperties": False},
)


def any_object(source: random.Random, depth: int) -> dict[str, Any]:
    """An object schema with a few keywords, in any order."""
    properties = {name: any_schema(source, depth - 1) for name in source.sample(NAMES, 2)}
    if source.random() < 0.6:
        properties["kind"] = {"enum": ["x", "y", "z"]}
    schema = {
        "type": "object",
        "properties": properties,
        "required": source.sample(sorted(properties), source.randint(0, 2)),
    }
    if source.random() < 0.2:
        del schema["properties"]
    for beside in source.sample(BESIDE, source.choice([0, 1, 1, 2])):
        schema |= beside
    keywords = list(schema.items())
    if source.random() < 0.5:
        source.shuffle(keywords)
    return dict(keywords)


def any_schema(source: random.Random, depth: int) -> Any:
    kind = source.random()
    if depth <= 0 or kind < 0.35:
        return source.choice(LEAVES)
    if kind < 0.75:
        return any_object(source, depth)
    parts = [any_schema(source, depth - 1) for _ in range(source.randint(1, 3))]
    if kind < 0.85:
        return {"type": "array", "prefixItems": parts[1:], "items": parts[0], "maxItems": 3}
    return {source.choice(["anyOf", "anyOf", "allOf", "oneOf"]): parts}


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_whatever_a_strict_schema_lets_be_written_validates(
    compiler: GrammarCompiler, held: Held, tokenizer: Tokenizer, seed: int
) -> None:
    source = random.Random(seed)
    schema = any_object(source, 2)
    definitions = {"A": any_object(source, 0), "B": source.choice(LEAVES)}
    schema = schema | {"$defs": definitions}
    output = OutputFormat("json_schema", schema=schema)
    try:
        whole = compiler.compile(Turn((), output=output)).whole
    except InvalidRequest:
        assume(False)
    grammar = json.dumps({"grammars": [json.loads(whole)["grammars"][-1]]})
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    for _ in range(4):
        ids = held.walk(grammar, source, most=150)
        if ids is not None:
            validator.validate(json.loads(tokenizer.decode(ids)))
