"""JSON schemas by keyword: enforced, with values that may and may not be written, or refused."""

# ruff: noqa: E501  a schema is a line

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler
from ossia.turn import OutputFormat, ToolDefinition, Turn

Held = Any  # the class in conftest.py
A_B = {"a": {"type": "integer"}, "b": {"type": "integer"}}
KINDS = {
    "type": "object",
    "properties": {"kind": {"enum": ["x", "y", "z"]}, "n": {"type": "integer"}},
    "required": ["kind"],
}
NODE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "v": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["v", "next"],
        }
    },
}


def obj(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def tagged(tag: str) -> dict[str, Any]:
    return obj(properties={"t": {"const": tag}, tag: {"type": "null"}}, required=["t"])


# (schema, values that may be written, values that may not)
ENFORCED: dict[str, tuple[Any, list[Any], list[Any]]] = {
    "true": (True, [1, "a", None, [{}]], []),
    "type": ({"type": "boolean"}, [True, False], [1, None, "true"]),
    "types": ({"type": ["integer", "null"]}, [None, 3], [1.5, "a"]),
    "const": ({"const": {"a": ["b\n", 1.5]}}, [{"a": ["b\n", 1.5]}], [{}, {"a": ["b", 1.5]}]),
    "enum": ({"enum": ["a", 1, None]}, ["a", 1, None], ["b", 2, True]),
    "enum of a type": ({"type": "string", "enum": ["a", "ab"]}, ["a", "ab"], ["abc", 1]),
    "minLength, maxLength": ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "\u00e9\U0001f600c"], ["a", "abcd"]),
    "pattern is a search": ({"type": "string", "pattern": "b+"}, ["abba", "b"], ["ac", ""]),
    "pattern with anchors": ({"type": "string", "pattern": "^a|b$"}, ["ax", "xb"], ["xax"]),
    "pattern with brackets": ({"type": "string", "pattern": "^[[&&]$"}, ["[", "&"], ["a", "]"]),
    "pattern and length": ({"type": "string", "pattern": "^a*$", "minLength": 3}, ["aaa"], ["aa", "aab"]),
    "format date": ({"type": "string", "format": "date"}, ["2024-02-29"], ["2023-02-29", "2024-2-1"]),
    "format date-time": ({"type": "string", "format": "date-time"}, ["2024-01-31T23:59:59.5+01:00"], ["2024-01-31", "2024-01-31T24:00:00Z"]),
    "format time": ({"type": "string", "format": "time"}, ["12:00:00Z"], ["12:00:00", "25:00:00Z"]),
    "format duration": ({"type": "string", "format": "duration"}, ["P1DT2H", "PT5M", "P3W"], ["P", "1D", "PT"]),
    "format email": ({"type": "string", "format": "email"}, ["a.b+c@example.org"], ["a@", "a b@c.de", "a"]),
    "format hostname": ({"type": "string", "format": "hostname"}, ["a-1.example.org"], ["-a", "a..b"]),
    "format ipv4": ({"type": "string", "format": "ipv4"}, ["192.168.0.255"], ["256.1.1.1", "1.2.3"]),
    "format ipv6": ({"type": "string", "format": "ipv6"}, ["::", "::1", "1::", "a:b:c:d:e:f:1:2", "a::b:c"], ["a::b::c", "a:b", "1:2:3:4:5:6:7:8:9"]),
    "format uuid": ({"type": "string", "format": "uuid"}, ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567"]),
    "format uri": ({"type": "string", "format": "uri"}, ["https://example.org/a?b=c#d", "mailto:a@b"], ["example", "a b:c"]),
    "format of a number": ({"type": "integer", "format": "int32"}, [2**31 - 1], [2**31]),
    "integer": ({"type": "integer"}, [0, -7, 1234567890123456789], [1.5, 10**20]),
    "number": ({"type": "number"}, [0, -1.5, 6.02e23], ["1"]),
    "minimum, maximum": ({"type": "integer", "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13]),
    "exclusive bounds": ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5, 0.9], [0, 1, 1.5]),
    "exclusive bounds of draft 4": ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, [2], [1]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, [0, 14, -21], [1, 15]),
    "multipleOf a part": ({"type": "number", "multipleOf": 0.5, "maximum": 10}, [1.5, -2], [0.25]),
    "multipleOf twice": ({"type": "integer", "multipleOf": 4, "allOf": [{"multipleOf": 6}]}, [12], [4, 6]),
    "multipleOf and a bound": ({"allOf": [{"type": "number", "exclusiveMinimum": 0}, {"multipleOf": 7}]}, [7, 70], [0, 1]),
    "items": ({"type": "array", "items": {"type": "integer"}}, [[], [1, 2]], [["a"]]),
    "minItems, maxItems": ({"type": "array", "minItems": 1, "maxItems": 2}, [[1], [1, "a"]], [[], [1, 2, 3]]),
    "prefixItems": ({"type": "array", "prefixItems": [{"type": "string"}], "items": False}, [[], ["a"]], [[1], ["a", 1]]),
    "items as a list": ({"type": "array", "items": [{"type": "string"}], "additionalItems": {"type": "null"}}, [["a", None]], [["a", 1]]),
    "uniqueItems of one": ({"type": "array", "uniqueItems": True, "maxItems": 1}, [[], [1]], [[1, 1]]),
    "properties close an object": (obj(properties=A_B, required=["a"]), [{"a": 1}, {"a": 1, "b": 2}], [{}, {"a": 1, "c": 2}]),
    "required without properties": (obj(required=["a"], properties={"b": {}}), [{"b": 1, "a": 2}], [{"b": 1}]),
    "additionalProperties": (obj(properties=A_B, additionalProperties={"type": "null"}), [{"a": 1, "z": None}], [{"z": 1}]),
    "patternProperties": (obj(patternProperties={"^x-": {"type": "null"}}, additionalProperties=False), [{"x-a": None}], [{"x-a": 1}, {"y": None}]),
    "propertyNames, enum": (obj(propertyNames={"enum": ["p", "q"]}, additionalProperties={"type": "null"}), [{}, {"p": None, "q": None}], [{"r": None}]),
    "propertyNames, pattern": (obj(propertyNames={"pattern": "^[a-c]$"}), [{"a": 1}], [{"d": 1}]),
    "propertyNames, length": (obj(propertyNames={"maxLength": 2}), [{"ab": 1}], [{"abc": 1}]),
    "minProperties": (obj(minProperties=1), [{"a": 1}], [{}]),
    "minProperties of properties": (obj(properties=A_B, minProperties=1), [{"b": 1}], [{}]),
    "maxProperties": (obj(properties=A_B, maxProperties=1), [{}, {"b": 1}], [{"a": 1, "b": 1}]),
    "unevaluatedProperties": (obj(properties=A_B, unevaluatedProperties=False), [{"a": 1}], [{"c": 1}]),
    "dependentRequired": (obj(properties=A_B, dependentRequired={"a": ["b"]}), [{}, {"b": 1}, {"a": 1, "b": 2}], [{"a": 1}]),
    "dependentSchemas": (obj(properties=A_B, dependentSchemas={"a": {"properties": {"b": {"minimum": 5}}}}), [{"b": 1}, {"a": 1, "b": 5}], [{"a": 1, "b": 1}]),
    "if, then": (KINDS | {"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["n"]}}, [{"kind": "y"}, {"kind": "x", "n": 1}], [{"kind": "x"}]),
    "if, else": (KINDS | {"if": {"required": ["n"]}, "else": {"properties": {"kind": {"const": "z"}}}}, [{"kind": "z"}, {"kind": "x", "n": 1}], [{"kind": "x"}]),
    "if in allOf": (KINDS | {"allOf": [{"if": {"properties": {"kind": {"const": "x"}}}, "then": {"required": ["n"]}}]}, [{"kind": "y"}], [{"kind": "x"}]),
    "not a type": ({"not": {"type": ["string", "number"]}}, [None, True, []], ["a", 1]),
    "not a value": ({"enum": ["a", "b"], "not": {"const": "b"}}, ["a"], ["b"]),
    "not required": (obj(properties=A_B, **{"not": {"required": ["a", "b"]}}), [{}, {"a": 1}], [{"a": 1, "b": 1}]),
    "anyOf": ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [1, "a"], [None]),
    "anyOf beside properties": (obj(properties=A_B, anyOf=[{"required": ["a"]}, {"required": ["b"]}]), [{"a": 1}, {"b": 1}], [{}, {"c": 1}]),
    "oneOf by a tag": ({"oneOf": [tagged("p"), tagged("q")]}, [{"t": "p", "p": None}], [{"t": "p", "q": None}, {"t": "r"}]),
    "oneOf by references": ({"oneOf": [{"$ref": "#/$defs/p"}, {"$ref": "#/$defs/q"}], "$defs": {"p": tagged("p"), "q": tagged("q")}}, [{"t": "q"}], [{}]),
    "oneOf by a property": (obj(properties=A_B, oneOf=[{"required": ["a"]}, {"required": ["b"]}]), [{"a": 1}, {"b": 1}], [{}, {"a": 1, "b": 1}]),
    "oneOf by ranges": ({"type": "integer", "oneOf": [{"maximum": 0}, {"minimum": 5}]}, [0, 5], [3]),
    "allOf": ({"allOf": [obj(properties={"a": {"type": "integer"}}, required=["a"]), obj(properties={"b": {"type": "null"}}, required=["b"])]}, [{"a": 1, "b": None}], [{"a": 1}]),
    "allOf of one reference": ({"allOf": [{"$ref": "#/$defs/p"}], "description": "x", "$defs": {"p": tagged("p")}}, [{"t": "p"}], [{"t": "p", "z": 1}]),
    "$ref with neighbours": ({"$ref": "#/$defs/s", "maxLength": 2, "$defs": {"s": {"type": "string"}}}, ["ab"], ["abc"]),
    "$ref to itself": (NODE, [{"v": 1, "next": {"v": 2, "next": None}}], [{"v": 1}]),
    "$ref to the root": (obj(properties={"kids": {"type": "array", "items": {"$ref": "#"}}}), [{"kids": [{}, {"kids": []}]}], [{"kids": [1]}]),
    "$ref with escapes": ({"$ref": "#/$defs/a~1b%20c", "$defs": {"a/b c": {"type": "null"}}}, [None], [1]),
    "names to be escaped": (obj(properties={'"\n\\': {"type": "null"}}, required=['"\n\\']), [{'"\n\\': None}], [{}]),
    "annotations": ({"type": "null", "title": "t", "default": 3, "x-guidance": {"lenient": 5}, "unknown": []}, [None], [3]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")  # Python's, about brackets in a pattern
@pytest.mark.parametrize("name", ENFORCED)
def test_enforced(compiler: GrammarCompiler, held: Held, name: str) -> None:
    schema, good, bad = ENFORCED[name]
    output = OutputFormat("json_schema", schema=schema)
    grammar = json.loads(compiler.compile(Turn((), output=output)).whole)["grammars"][-1]
    validator = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    for value in good:
        assert held.json(grammar, json.dumps(value, ensure_ascii=False)), value
        if "draft 4" not in name and "as a list" not in name:
            assert validator.is_valid(value), value
    for value in bad:
        assert not held.json(grammar, json.dumps(value, ensure_ascii=False)), value


REFUSED: dict[str, tuple[Any, str, str]] = {
    "no schema": ([1], "", "must be a JSON schema"),
    "type": ({"type": "text"}, "type", "must be one of object, array"),
    "no types": ({"type": []}, "type", "must be one of"),
    "empty enum": (obj(properties={"a": {"enum": []}}), "properties.a.enum", "at least one value"),
    "long number": ({"const": 2**60}, "const", "beyond 2\\^53"),
    "long fraction": ({"enum": [0.1 + 0.2]}, "enum", "at most 15"),
    "control character": ({"const": "\x00"}, "const", "control character"),
    "look-ahead": (obj(properties={"a": {"pattern": "(?=x)"}}), "properties.a.pattern", "looking ahead"),
    "word boundary": ({"type": "string", "pattern": "\\ba"}, "pattern", "word boundaries"),
    "broken pattern": ({"type": "array", "items": {"type": "string", "pattern": "("}}, "items.pattern", "unclosed group"),
    "empty brackets": ({"type": "string", "pattern": "[]"}, "pattern", "empty brackets"),
    "unknown format": ({"type": "string", "format": "zip"}, "format", "date, date-time, duration, email"),
    "empty range": ({"type": "integer", "minimum": 3, "maximum": 2}, "", "allows no text"),
    "fine multipleOf": ({"type": "number", "multipleOf": 1e-9}, "multipleOf", "at most 6"),
    "large multipleOf": ({"type": "integer", "multipleOf": 12345}, "multipleOf", "up to 500, or 1000"),
    "multipleOf 0": ({"type": "number", "multipleOf": 0}, "multipleOf", "above 0"),
    "multipleOf of many digits twice": ({"type": "integer", "multipleOf": 97, "allOf": [{"multipleOf": 89}]}, "multipleOf", "beside another"),
    "minimum as text": ({"type": "number", "minimum": "1"}, "minimum", "must be a number"),
    "uniqueItems": (obj(properties={"a": {"uniqueItems": True}}), "properties.a.uniqueItems", "leave it out"),
    "contains": ({"type": "array", "contains": {}}, "contains", "leave it out"),
    "many items": ({"type": "array", "maxItems": 10**6}, "maxItems", "over 5000"),
    "two more properties": (obj(minProperties=2), "minProperties", "one property more"),
    "overlapping patterns": (obj(patternProperties={"^a": {}, "b$": {}}), "patternProperties", "not disjoint"),
    "propertyNames": (obj(propertyNames={"format": "date"}), "propertyNames", "an enum, a pattern or a length"),
    "unevaluatedProperties": (obj(allOf=[{}], unevaluatedProperties=False), "unevaluatedProperties", "additionalProperties"),
    "overlapping oneOf": ({"oneOf": [{"type": "integer"}, {"minimum": 3}]}, "oneOf", "use anyOf"),
    "not": ({"not": {"pattern": "a"}}, "not", "can be enforced for types"),
    "if": ({"type": "string", "if": {"minLength": 3}, "then": {"pattern": "a"}}, "if", "can be enforced for objects"),
    "allOf without a common value": ({"allOf": [{"type": "string"}, {"type": "null"}]}, "", "allows no text"),
    "another document": ({"$ref": "https://example.org/a.json"}, "$ref", "another document"),
    "missing definition": (obj(properties={"a": {"$ref": "#/$defs/b"}}), "properties.a.$ref", "not in this schema"),
    "endless": ({"$ref": "#/$defs/a", "$defs": {"a": obj(properties={"b": {"$ref": "#/$defs/a"}}, required=["b"])}}, "", "without an end"),
    "demanded and forbidden item": ({"type": "array", "items": False, "minItems": 1}, "", "what it demands is not allowed"),
    "demanded and forbidden property": (obj(properties={"a": False}, required=["a"]), "", "what it demands is not allowed"),
    "circle of references": ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "", "without an end"),
    "$dynamicRef": ({"$dynamicRef": "#a"}, "$dynamicRef", "use \\$ref"),
}  # fmt: skip
ROOT = "response_format.json_schema.schema"


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_refused_where_it_stands(
    compiler: GrammarCompiler, name: str
) -> None:
    schema, path, sentence = REFUSED[name]
    with pytest.raises(InvalidRequest, match=sentence) as refusal:
        compiler.compile(Turn((), output=OutputFormat("json_schema", schema=schema)))
    place = f"{ROOT}.{path}".rstrip(".")
    assert refusal.value.param is not None
    assert refusal.value.param.startswith(place) if path == "" else refusal.value.param == place
    assert refusal.value.param in refusal.value.message


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_enforced_is_left_out_where_that_is_allowed(
    compiler: GrammarCompiler, name: str
) -> None:
    schema = REFUSED[name][0]
    compiler.compile(Turn((), output=OutputFormat("json_schema", schema=schema, strict=False)))
    compiler.compile(Turn((), (ToolDefinition("f", parameters={"properties": {"a": schema}}),)))
