from __future__ import annotations

import datetime
import json

import pytest

from ossia.cli.chat.tools import calculate, demo_tools, run_tool


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) * 4", "20"),
        ("7 / 2", "3.5"),
        ("7 // 2 + 7 % 4", "6"),
        ("-3 ** 2", "-9"),
        ("2^10", "1024"),
        ("6 \u00d7 7 \u2212 2", "40"),
        ("1e3 + 0.5", "1000.5"),
        ("0.1 + 0.2", "0.3"),
        ("  12 ", "12"),
    ],
)
def test_arithmetic_is_calculated(expression: str, value: str) -> None:
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "a + 1",
        "(1).__class__",
        "[1, 2]",
        "'a' * 3",
        "True + 1",
        "1 if 1 else 2",
        "1 < 2",
        "9 ** 9 ** 9",
        "10 ** 100000",
        "(-8) ** 0.5",
        "1 +",
        "",
        "1; 2",
        "(" * 150 + "1" + ")" * 150,
        "1" * 201,
        "2j",
    ],
)
def test_anything_else_is_refused(expression: str) -> None:
    with pytest.raises(ValueError):
        calculate(expression)


def test_a_call_runs_the_named_function() -> None:
    tools = demo_tools()
    assert run_tool(tools, "calculator", '{"expression": "17 * 3"}') == "51"
    assert run_tool(tools, "echo", '{"text": "hello"}') == "hello"
    assert run_tool(tools, "time", '{"timezone": "UTC"}').endswith("+00:00")
    told = datetime.datetime.fromisoformat(run_tool(tools, "time", "{}"))
    assert abs(datetime.datetime.now(datetime.UTC) - told) < datetime.timedelta(minutes=1)


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("weather", "{}", "Error: there is no function weather"),
        ("calculator", "{", "Error: "),
        ("calculator", "[1]", "Error: the arguments must be a JSON object."),
        ("calculator", "{}", "Error: the argument 'expression' must be a string."),
        ("calculator", '{"expression": "1/0"}', "Error: division by zero."),
        ("calculator", '{"expression": "1e308 * 1e308 ** 2"}', "Error: "),
        ("echo", "[" * 5000, "Error: "),
        ("time", '{"timezone": "Atlantis/Sunken"}', "Error: there is no time zone"),
        ("time", '{"timezone": "../../etc/passwd"}', "Error: there is no time zone"),
        ("time", '{"timezone": "Europe"}', "Error: there is no time zone"),
    ],
)
def test_a_wrong_call_is_answered_and_never_raises(name: str, arguments: str, answer: str) -> None:
    assert run_tool(demo_tools(), name, arguments).startswith(answer)


def test_declarations_are_json_schemas() -> None:
    for tool in demo_tools():
        schema = json.loads(json.dumps(tool.definition.parameters))
        assert schema["type"] == "object"
        assert set(schema["required"]) <= set(schema["properties"])
