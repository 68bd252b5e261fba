"""How JSON schemas are read: what is left out, what is bounded, how JSON may be written."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.grammar.schema import MAX_BYTES, MAX_NODES, prepare_schema
from ossia.turn import OutputFormat, ToolDefinition, Turn

Held = Any  # the class in conftest.py
TAGGED = {"type": "object", "properties": {"t": {"const": "p"}}, "required": ["t"]}


def obj(**keywords: Any) -> dict[str, Any]:
    return {"type": "object", **keywords}


def test_only_what_fails_is_left_out(compiler: GrammarCompiler, held: Held) -> None:
    schema = obj(
        properties={
            "a": {"type": "string", "pattern": "(?=x)", "maxLength": 2},
            "b": {"type": "integer", "not": {"multipleOf": 2}},
        }
    )
    tool = ToolDefinition("f", parameters=schema)
    grammar = json.loads(compiler.compile(Turn((), (tool,))).whole)["grammars"][-1]
    assert held.json(grammar, '{"a":"ab","b":2}')
    assert not held.json(grammar, '{"a":"abc"}')
    assert not held.json(grammar, '{"b":"c"}')


def test_many_faults_leave_the_rest_as_it_is(compiler: GrammarCompiler, held: Held) -> None:
    bad = {f"p{n}": {"type": "string", "pattern": f"(?!{n})"} for n in range(50)}
    tool = ToolDefinition("f", parameters=obj(properties={**bad, "n": {"type": "integer"}}))
    grammar = json.loads(compiler.compile(Turn((), (tool,))).whole)["grammars"][-1]
    assert held.json(grammar, '{"p7":"a","n":1}')
    assert not held.json(grammar, '{"n":"a"}')
    assert not held.json(grammar, '{"m":1}')


def test_references_in_a_circle_are_not_followed_for_ever(compiler: GrammarCompiler) -> None:
    schema = {
        "oneOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/b"}],
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    compiler.compile(Turn((), output=OutputFormat("json_schema", schema=schema, strict=False)))
    with pytest.raises(InvalidRequest) as refusal:
        compiler.compile(Turn((), output=OutputFormat("json_schema", schema=schema)))
    assert refusal.value.param == "response_format.json_schema.schema.oneOf"


@pytest.mark.parametrize(
    ("parameters", "strict", "good", "bad"),
    [
        (None, False, "{}", '{"a":1}'),
        ({}, True, "{}", '{"a":1}'),
        ({"type": "object", "properties": {}}, False, "{}", '{"a":1}'),
        ({"type": "object", "additionalProperties": True}, False, '{"a":1}', "[]"),
        ({"properties": {"a": {"type": "integer"}}}, False, '{"a":1}', '{"a":"b"}'),
        ({"type": "string"}, False, '{"any":["thing"]}', '"a"'),
        ({"type": "nonsense"}, False, '{"a":1}', "1"),
        (5, False, "{}", "5"),
        ({"$ref": "#/$defs/p", "$defs": {"p": TAGGED}}, True, '{"t":"p"}', "{}"),
        ({"anyOf": [TAGGED, {"type": "string"}]}, True, '{"t":"p"}', '"a"'),
    ],
)
def test_arguments_are_always_an_object(
    compiler: GrammarCompiler, held: Held, parameters: Any, strict: bool, good: str, bad: str
) -> None:
    tool = ToolDefinition("f", parameters=parameters, strict=strict)
    grammar = json.loads(compiler.compile(Turn((), (tool,))).whole)["grammars"][-1]
    assert held.json(grammar, good)
    assert not held.json(grammar, bad)


def test_a_strict_function_takes_an_object(compiler: GrammarCompiler) -> None:
    tools = (ToolDefinition("e"), ToolDefinition("f", parameters={"type": "array"}, strict=True))
    with pytest.raises(InvalidRequest, match="arguments are an object") as refusal:
        compiler.compile(Turn((), tools))
    assert refusal.value.param == "tools[1].function.parameters"


def test_a_property_cannot_be_written_twice_in_disguise(
    compiler: GrammarCompiler, held: Held
) -> None:
    schema = obj(properties={"a": {"type": "integer"}}, additionalProperties={"type": "string"})
    output = OutputFormat("json_schema", schema=schema)
    grammar = json.loads(compiler.compile(Turn((), output=output)).whole)["grammars"][-1]
    assert held.json(grammar, '{"a":1,"b":"c"}')
    assert not held.json(grammar, '{"a":1,"\\u0061":"c"}')


@pytest.mark.parametrize("text", ['{ "a": 1 }', '{\n    "a" : 1\n}', '{\r\n\t"a":\t1}'])
def test_json_may_be_spaced_as_usual(compiler: GrammarCompiler, held: Held, text: str) -> None:
    output = OutputFormat("json_object")
    grammar = json.loads(compiler.compile(Turn((), output=output)).whole)["grammars"][-1]
    assert held.json(grammar, text)


def test_whitespace_has_an_end(compiler: GrammarCompiler, held: Held) -> None:
    output = OutputFormat("json_object")
    grammar = json.loads(compiler.compile(Turn((), output=output)).whole)["grammars"][-1]
    assert held.json(grammar, "{" + " " * 40 + "}")
    assert not held.json(grammar, "{" + " " * 41 + "}")
    assert not held.json(grammar, "{" + "\n" * 41 + "}")
    assert not held.json(grammar, " {}")


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = obj(properties={"a": schema}, required=["a"])
    return schema


def test_schemas_nest_as_deep_as_promised(compiler: GrammarCompiler, held: Held) -> None:
    output = OutputFormat("json_schema", schema=nested(60))
    grammar = json.loads(compiler.compile(Turn((), output=output)).whole)["grammars"][-1]
    assert held.json(grammar, '{"a":' * 60 + "null" + "}" * 60)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"minimum": 10**5000}, "not JSON"),
        (nested(70), "nests deeper"),
        (nested(3000), "nests deeper"),
        ({"description": "x" * MAX_BYTES}, "bytes"),
        ({"anyOf": [{"type": "null"}] * (MAX_NODES + 1)}, "parts"),
        ({"enum": list(range(MAX_NODES + 1))}, "parts"),
        ({"const": math.nan}, "not JSON"),
        ({"const": {1, 2}}, "not JSON"),
        (
            {
                "$ref": "#/$defs/0",
                "$defs": {
                    str(n): obj(properties={"a": {"$ref": f"#/$defs/{n + 1}"}}) for n in range(200)
                },
            },
            "nests deeper",
        ),
    ],
)
def test_schemas_over_the_limits_are_refused(schema: Any, sentence: str, strict: bool) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        prepare_schema(schema, path="here", strict=strict)


BOUND = st.one_of(
    st.integers(-20, 20),
    st.floats(-20, 20, allow_nan=False),
    st.decimals(-20, 20, places=2).map(float),
    st.sampled_from([1e-9, 5e-324, 2**53 - 1, 2**63 - 1, 1.7e308, -1e16]),
)


@given(
    st.sampled_from(["integer", "number"]),
    st.dictionaries(
        st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]),
        BOUND,
        min_size=1,
    ),
    st.data(),
)
def test_a_number_that_may_be_written_is_within_its_bounds(
    held: Held, kind: str, bounds: dict[str, float], data: st.DataObject
) -> None:
    schema = {"type": kind, **bounds}
    grammar = prepare_schema(schema, path="", strict=True).grammar()
    near = st.sampled_from(sorted(bounds.values())).flatmap(
        lambda b: st.sampled_from(
            [b, math.nextafter(b, math.inf), math.nextafter(b, -math.inf), round(b), b + 0.1]
        )
    )
    value = data.draw(near)
    tail = data.draw(st.sampled_from(["", "0", "9" * 25]))
    text = format(value, ".25f").rstrip("0").rstrip(".")
    text += tail if "." in text or not tail else f".{tail}"
    try:
        allowed = held.json(grammar, text)
    except AssertionError:  # no number at all is within the bounds
        return
    if allowed:
        assert jsonschema.Draft202012Validator(schema).is_valid(json.loads(text)), text


KEYWORDS = st.sampled_from(
    [
        *("type", "enum", "const", "$ref", "$defs", "$dynamicRef", "a", "b"),
        *("anyOf", "allOf", "oneOf", "not", "if", "then", "else"),
        *("properties", "required", "additionalProperties", "patternProperties", "propertyNames"),
        *("minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems"),
        *("dependentRequired", "dependentSchemas", "dependencies"),
        *("items", "prefixItems", "additionalItems", "minItems", "maxItems"),
        *("uniqueItems", "contains", "minContains", "minLength", "maxLength", "pattern", "format"),
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
    ]
)
ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 10**6),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=3),
        st.sampled_from(["object", "string", "array", "#", "#/a", "#/$defs/a", "#/properties/b"]),
    ),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(KEYWORDS, parts, max_size=4),
    max_leaves=12,
)


@given(ANYTHING)
def test_whatever_is_sent_as_a_schema_is_used_or_refused(
    compiler: GrammarCompiler, schema: Any
) -> None:
    compiler.compile(Turn((), (ToolDefinition("f", parameters=schema),)))
    output = OutputFormat("json_schema", schema=schema, strict=False)
    compiler.compile(Turn((), output=output))
    with contextlib.suppress(InvalidRequest):
        compiler.compile(Turn((), output=OutputFormat("json_schema", schema=schema)))
