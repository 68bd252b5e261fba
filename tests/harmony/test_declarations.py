from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.errors import InvalidRequest
from ossia.harmony.declarations import render_declarations
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import ToolDefinition


def arguments(tokenizer: Tokenizer, schema: dict[str, Any]) -> str:
    """What stands between the parentheses of the function's type."""
    text = render_declarations([ToolDefinition("f", "", schema)], tokenizer)
    return text.partition("type f = (")[2].rpartition(") => any;")[0]


def argument(tokenizer: Tokenizer, schema: Any, **definitions: Any) -> str:
    """The type shown for one argument with this schema."""
    root = {"type": "object", "properties": {"a": schema}, "$defs": definitions}
    return arguments(tokenizer, root).partition("a?: ")[2].removesuffix("\n}").removesuffix(",")


def test_the_section_has_a_namespace_with_a_type_for_each_function(tokenizer: Tokenizer) -> None:
    tools = [ToolDefinition("f", "First.\nSecond."), ToolDefinition("g")]
    assert render_declarations(tools, tokenizer) == (
        "# Tools\n\n## functions\n\nnamespace functions {\n\n"
        "// First.\n// Second.\ntype f = () => any;\n\ntype g = () => any;\n\n"
        "} // namespace functions"
    )


@pytest.mark.parametrize(
    "schema",
    [
        None,
        {},
        {"type": "object"},
        {"type": "object", "properties": {}},
        {"properties": {}, "required": [], "additionalProperties": False, "title": "NoArguments"},
    ],
)
def test_functions_without_arguments_take_none(
    tokenizer: Tokenizer, schema: dict[str, Any] | None
) -> None:
    assert "type f = () => any;" in render_declarations(
        [ToolDefinition("f", "", schema)], tokenizer
    )


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": ["array", "null"], "items": {"type": "string"}}, "string[] | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "number | null"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "number | string"),
        (
            {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
            "number[] | null",
        ),
        ({"enum": ["x", "y"]}, '"x" | "y"'),
        ({"enum": ["x", None]}, '"x" | null'),
        ({"enum": [1, "x"]}, "any"),
        ({"const": "x"}, '"x"'),
        ({"type": "integer", "enum": [1, 2]}, "number"),
        ({"type": ["string", "null"], "enum": ["x", None]}, '"x" | null'),
        ({"$ref": "#/$defs/name"}, "string"),
        ({"allOf": [{"$ref": "#/$defs/name"}], "default": "Bo"}, 'string, // default: "Bo"'),
        ({"$ref": "#/$defs/nowhere"}, "any"),
        ({"$ref": "https://example.com/schema"}, "any"),
        ({"$ref": "#/$defs/loop"}, "any"),
        ({"items": {"type": "string"}}, "string[]"),
        (True, "any"),
        ("string", "any"),
        ({"type": 7, "properties": [], "required": "a", "enum": "x", "oneOf": {}}, "any"),
        ({"type": "object", "properties": "none"}, "{\n    }"),
        ({"oneOf": []}, "any"),
    ],
)
def test_schemas_are_shown_as_far_as_the_syntax_goes(
    tokenizer: Tokenizer, schema: Any, shown: str
) -> None:
    definitions = {"name": {"type": "string"}, "loop": {"$ref": "#/$defs/loop"}}
    assert argument(tokenizer, schema, **definitions) == shown


def test_a_schema_inside_itself_is_shown_once(tokenizer: Tokenizer) -> None:
    tree = {"type": "object", "properties": {"child": {"$ref": "#/$defs/tree"}}}
    assert argument(tokenizer, {"$ref": "#/$defs/tree"}, tree=tree) == (
        "{\n    child?: any,\n    }"
    )


def test_unions_of_objects_are_listed(tokenizer: Tokenizer) -> None:
    union = {
        "anyOf": [
            {"type": "string", "description": "a name"},
            {"type": "object", "properties": {"id": {"type": "integer"}}},
        ]
    }
    shown = argument(tokenizer, union) or arguments(
        tokenizer, {"type": "object", "properties": {"a": union}}
    )
    assert " | string // a name\n" in shown
    assert "id?: number" in shown


def test_parts_of_all_of_are_merged(tokenizer: Tokenizer) -> None:
    root = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"properties": {"b": {"type": "number"}}},
        ]
    }
    shown = arguments(tokenizer, root)
    assert "a: string" in shown
    assert "b?: number" in shown


def test_deep_and_wide_schemas_are_cut_not_refused(tokenizer: Tokenizer) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(300):
        deep = {"type": "object", "properties": {"a": deep}}
    assert "a?: any" in arguments(tokenizer, deep)
    doubling = {
        str(i): {
            "type": "object",
            "properties": {side: {"$ref": f"#/$defs/{i + 1}"} for side in "lr"},
        }
        for i in range(40)
    }
    start = time.process_time()
    argument(tokenizer, {"$ref": "#/$defs/0"}, **doubling)
    assert time.process_time() - start < 5


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "f<|end|>", "f{", "x" * 257])
def test_names_that_could_not_be_called_are_refused(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        render_declarations([ToolDefinition("fine"), ToolDefinition(name)], tokenizer)
    assert refused.value.param == "tools[1].name"


def test_parameters_that_are_no_schema_are_refused(tokenizer: Tokenizer) -> None:
    tool = ToolDefinition("f", "", ["not", "a", "schema"])  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="must be a JSON schema object"):
        render_declarations([tool], tokenizer)


def test_very_long_words_in_schemas_are_shown_whole_and_fast(tokenizer: Tokenizer) -> None:
    word, blanks = "漢" * 50_000, " " * 50_000
    schema = {"type": "object", "properties": {"a": {"description": f"{word}{blanks}."}}}
    start = time.process_time()
    text = render_declarations([ToolDefinition("f", f"Say {word}\nso", schema)], tokenizer)
    assert time.process_time() - start < 2
    assert f"// Say {word}\n// so\n" in text
    assert f"// {word}{blanks}.\n" in text


def test_strings_that_json_cannot_carry_are_repaired(tokenizer: Tokenizer) -> None:
    schema = {
        "properties": {"\ud800": {"description": "\udfff", "default": float("nan")}},
        "required": ["\ud800", 3],
    }
    text = render_declarations([ToolDefinition("f", "\ud83d", schema)], tokenizer)
    assert "// \ufffd\n\ufffd: any" in text


@pytest.mark.parametrize("kind", ["\udfff", ["\ud83d", "null"], ["string", "\ud83d"]])
def test_a_half_character_as_a_type_is_replaced(tokenizer: Tokenizer, kind: object) -> None:
    text = render_declarations(
        [ToolDefinition("f", "", {"properties": {"a": {"type": kind}}})], tokenizer
    )
    assert "a?:" in text
    text.encode()


keywords = st.sampled_from(
    [
        *("type", "properties", "items", "required", "enum", "const", "default", "description"),
        *("title", "examples", "oneOf", "anyOf", "allOf", "$ref", "$defs", "nullable", "x"),
        *("additionalProperties", "format", "\ud800"),
    ]
)
values = st.sampled_from(
    [
        *("object", "array", "string", "null", "#", "#/$defs/x", "#/properties/x", "\udfff"),
        *(None, True, False, 0, 10**400, -(2**63), 0.5, float("inf"), float("nan"), "a\n b"),
    ]
)
schemas = st.recursive(
    values,
    lambda inner: st.dictionaries(keywords, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@given(schema=st.dictionaries(keywords, schemas, max_size=6), description=st.text())
def test_any_schema_can_be_shown(
    tokenizer: Tokenizer, schema: dict[str, Any], description: str
) -> None:
    text = render_declarations([ToolDefinition("f", description, schema)], tokenizer)
    assert "\ntype f = (" in text
    assert text.endswith("} // namespace functions")


def test_the_order_of_keys_does_not_matter_to_equal_schemas(tokenizer: Tokenizer) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number"}}}
    again = json.loads(json.dumps(schema))
    assert arguments(tokenizer, schema) == arguments(tokenizer, again)
    assert arguments(tokenizer, schema).index("b?") < arguments(tokenizer, schema).index("a?")
