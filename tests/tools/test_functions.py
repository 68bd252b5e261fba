"""Functions become tools by their signatures."""

from __future__ import annotations

import asyncio
import enum
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from ossia.tools.functions import function_tool
from ossia.tools.tool import DEFAULT_TIMEOUT, CallContext, Tool, ToolError, ToolOutput


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(BaseModel):
    city: str
    country: str = "Austria"


@dataclass
class Weather:
    degrees: float
    day: date


def call(tool: Tool, **arguments: Any) -> ToolOutput:
    return asyncio.run(tool.call(arguments, CallContext("session 1")))


def test_schema_and_description_come_from_the_function() -> None:
    @function_tool
    def weather(
        place: Place,
        day: date,
        unit: Literal["C", "F"] = "C",
        days: Annotated[int, Field(ge=1, description="How many")] = 1,
    ) -> str:
        """The weather of a place.

        In the future too.
        """
        return f"{place.city}, {place.country}, {day.year}, {unit}, {days}"

    assert weather.name == "weather"
    assert weather.description == "The weather of a place.\n\nIn the future too."
    assert weather.timeout == DEFAULT_TIMEOUT
    assert weather.parameters["required"] == ["place", "day"]
    assert weather.parameters["additionalProperties"] is False
    assert weather.parameters["properties"]["days"] == {
        "type": "integer",
        "minimum": 1,
        "default": 1,
        "description": "How many",
    }
    assert json.loads(json.dumps(weather.parameters)) == weather.parameters
    output = call(weather, place={"city": "Graz"}, day="2026-11-23")
    assert output == ToolOutput("Graz, Austria, 2026, C, 1")


def test_name_and_timeout_can_be_given() -> None:
    tool = function_tool(lambda: "done", name="do.it", timeout=5)
    assert (tool.name, tool.timeout, call(tool)) == ("do.it", 5, ToolOutput("done"))

    @function_tool(name="other", timeout=1)
    def decorated() -> str:
        return "yes"

    assert (decorated.name, decorated.timeout, call(decorated)) == ("other", 1, ToolOutput("yes"))


def test_plain_functions_run_in_a_thread_and_coroutines_in_the_loop() -> None:
    def plain() -> bool:
        return threading.current_thread() is threading.main_thread()

    async def coroutine() -> bool:
        return threading.current_thread() is threading.main_thread()

    assert call(function_tool(plain)).text == "false"
    assert call(function_tool(coroutine)).text == "true"


def test_the_context_is_given_and_not_asked_for() -> None:
    def who(context: CallContext, greeting: str = "Hello") -> str:
        return f"{greeting}, {context.session}"

    tool = function_tool(who)
    assert list(tool.parameters["properties"]) == ["greeting"]
    assert call(tool).text == "Hello, session 1"


def test_an_object_that_can_be_called_is_a_tool() -> None:
    class Adder:
        """Adds."""

        def __init__(self, more: int) -> None:
            self.more = more

        async def __call__(self, number: int) -> int:
            return number + self.more

    tool = function_tool(Adder(2), name="add")
    assert call(tool, number=3).text == "5"


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}'),
        ("ü", "ü"),
        (["ü"], '["ü"]'),
        (Weather(3.5, date(2026, 11, 23)), '{"degrees":3.5,"day":"2026-11-23"}'),
        (Place(city="Graz"), '{"city":"Graz","country":"Austria"}'),
        (None, "null"),
        (ToolOutput("error", is_error=True), "error"),
    ],
)
def test_results_are_text_or_json(result: object, text: str) -> None:
    output = call(function_tool(lambda: result, name="give"))
    assert output.text == text
    assert output.is_error == (result == ToolOutput("error", is_error=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, r'The argument "colour" is missing\.'),
        ({"colour": "green"}, r'The argument "colour" is wrong: .*red.*blue'),
        ({"colour": "red", "size": -1}, r'The argument "size" is wrong: .*greater than 0'),
        ({"colour": "red", "json": "x"}, r'The argument "json" is wrong: .*integer'),
        ({"colour": "red", "places": [{"city": 1}]}, r'The argument "places.0.city" is wrong'),
        ({"colour": "red", "sise": 1}, r'There is no argument "sise"\.'),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], sentence: str) -> None:
    def paint(
        colour: Colour,
        size: Annotated[int, Field(gt=0)] = 1,
        json: int = 1,  # a name that pydantic's models have themselves
        places: list[Place] | None = None,
    ) -> str:
        return "painted"

    with pytest.raises(ToolError, match=sentence):
        call(function_tool(paint), **arguments)


def test_arguments_have_the_types_of_the_annotations() -> None:
    seen: list[object] = []

    def see(colour: Colour, json: int, _private: str, untyped=None) -> None:  # type: ignore[no-untyped-def]
        seen.extend([colour, json, _private, untyped])

    call(function_tool(see), colour="blue", json="3", _private="p", untyped=[1])
    assert seen == [Colour.BLUE, 3, "p", [1]]


def test_what_the_function_raises_is_not_hidden() -> None:
    def fail() -> None:
        raise ToolError("Try another place.")

    with pytest.raises(ToolError, match=r"^Try another place\.$"):
        call(function_tool(fail))


def _positional(number: int, /) -> None: ...
def _many(*numbers: int) -> None: ...
def _unknown(thing: NotImported) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _no_schema(thing: Callable[[], int]) -> None: ...
def _no_type(thing: threading.Lock) -> None: ...  # type: ignore[valid-type]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (_positional, "number"),
        (_many, r"\*numbers"),
        (_unknown, "NotImported"),
        (_no_schema, "cannot be a tool"),
        (_no_type, "cannot be a tool"),
        (lambda: None, "give it another with `name=`"),
    ],
)
def test_functions_that_cannot_be_tools_are_refused(
    function: Callable[..., None], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        function_tool(function)


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    program = (
        "import sys, ossia.tools.registry, ossia.tools.runner\n"
        "print({'pydantic', 'jsonschema', 'mcp', 'sqlalchemy', 'torch'} & set(sys.modules))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert told.stdout == "set()\n"
