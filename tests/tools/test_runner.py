"""Whatever a tool does, the model gets an answer."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from ossia.tools.runner import MAX_OUTPUT, run_call
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

CONTEXT = CallContext("c")
Behaviour = Callable[[Mapping[str, Any]], Awaitable[ToolOutput]]


class Behaves(Tool):
    """Does what its test wants."""

    name = "behaves"
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "count": {"type": "integer", "minimum": 0},
            "tags": {"items": {"type": "string"}},
        },
        "additionalProperties": False,
    }

    def __init__(self, behaviour: Behaviour, **attributes: Any) -> None:
        self._behaviour = behaviour
        vars(self).update(attributes)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return await self._behaviour(arguments)


async def repeat(arguments: Mapping[str, Any]) -> ToolOutput:
    return ToolOutput(repr(dict(arguments)))


def raising(error: BaseException) -> Behaviour:
    async def fail(_: Mapping[str, Any]) -> ToolOutput:
        raise error

    return fail


def returning(output: Any) -> Behaviour:
    async def give(_: Mapping[str, Any]) -> ToolOutput:
        return output  # type: ignore[no-any-return]

    return give


def run(behaviour: Behaviour, arguments: str = "{}", **attributes: Any) -> ToolOutput:
    return asyncio.run(run_call(Behaves(behaviour, **attributes), arguments, CONTEXT))


@pytest.mark.parametrize("text", ['{"count": 3}', '\n{"count": 3} '])
def test_the_tool_gets_its_arguments(text: str) -> None:
    assert run(repeat, text) == ToolOutput("{'count': 3}")


def test_no_arguments_may_be_no_text() -> None:
    assert run(repeat, "") == ToolOutput("{}")


def test_what_is_called_on_python_is_code() -> None:
    output = run(repeat, 'print("{")', builtin="python", parameters={"type": "object"})
    assert output == ToolOutput(repr({"code": 'print("{")'}))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ('{"count": ', "The arguments are not JSON: Expecting value at line 1, column 10."),
        ("[1]", "The arguments are not a JSON object; write them as {...}."),
        ('{"count": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "The arguments are not JSON"),
        ('{"count": "x"}', "The argument \"count\" is wrong: 'x' is not of type 'integer'."),
        ('{"tags": ["a", 1]}', 'The argument "tags.1" is wrong'),
        ('{"size": 1}', "'size' was unexpected"),
        ('{"count": "' + "x" * 5000 + '"}', "…"),
    ],
)
def test_wrong_arguments_never_reach_the_tool(arguments: str, sentence: str) -> None:
    output = run(raising(AssertionError("called")), arguments)
    assert output.is_error
    assert sentence in output.text
    assert len(output.text) < 1000


def test_references_of_a_schema_are_not_fetched(caplog: pytest.LogCaptureFixture) -> None:
    schema = {"type": "object", "properties": {"count": {"$ref": "http://127.0.0.1:9/schema"}}}
    assert run(repeat, '{"count": 1}', parameters=schema) == ToolOutput("{'count': 1}")
    assert "The schema of the tool behaves cannot be used" in caplog.text


def test_a_tool_that_takes_too_long_is_stopped() -> None:
    stopped: list[bool] = []

    async def wait(_: Mapping[str, Any]) -> ToolOutput:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            stopped.append(True)
            raise
        raise AssertionError

    output = run(wait, timeout=0.05)
    assert output.is_error
    assert output.text == "The tool took longer than 0.05 seconds and was stopped."
    assert stopped == [True]


def test_the_sentence_of_a_tool_error_reaches_the_model() -> None:
    assert run(raising(ToolError("No such page."))) == ToolOutput("No such page.", is_error=True)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("secret"),
        TimeoutError("secret"),
        asyncio.CancelledError("secret"),
        SystemExit("secret"),
        RecursionError("secret"),
    ],
)
def test_other_failures_are_for_the_log(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        output = run(raising(error))
    assert output.is_error
    assert output.text.startswith("The tool failed: ")
    assert "secret" not in output.text
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


def test_a_function_that_exits_does_not_end_the_server() -> None:
    from ossia.tools.functions import function_tool

    tool = function_tool(lambda: sys.exit(3), name="leave")
    assert asyncio.run(run_call(tool, "{}", CONTEXT)).is_error


def test_what_is_no_output_is_a_failure() -> None:
    assert run(returning("text")).is_error


def test_long_output_is_cut_in_the_middle() -> None:
    text = "".join(chr(ord("a") + n % 26) for n in range(MAX_OUTPUT + 1234))
    output = run(returning(ToolOutput(text, is_error=True, details={"kept": 1})))
    assert output.is_error
    assert output.details == {"kept": 1}
    assert output.text.startswith(text[: MAX_OUTPUT // 2] + "\n\n[1,234 characters are left out")
    assert output.text.endswith("]\n\n" + text[-MAX_OUTPUT // 2 :])
    assert run(returning(ToolOutput(text[:MAX_OUTPUT]))).text == text[:MAX_OUTPUT]


def test_half_characters_do_not_leave_the_tool() -> None:
    assert run(returning(ToolOutput("a\ud800b"))).text == "a?b"


def test_cancelling_reaches_the_tool_and_the_caller() -> None:
    stopped: list[bool] = []

    async def cancelled() -> None:
        started = asyncio.Event()

        async def wait(_: Mapping[str, Any]) -> ToolOutput:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                stopped.append(True)
            raise AssertionError

        task = asyncio.create_task(run_call(Behaves(wait), "{}", CONTEXT))
        await started.wait()
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert stopped == [True]
