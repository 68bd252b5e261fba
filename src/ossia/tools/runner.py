"""Executes one call of a tool; whatever the tool does, the model gets an answer."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ossia.tools.checks import plain_json
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

MAX_OUTPUT = 100_000  # characters that the model is told
_MAX_SENTENCE = 500  # characters of a fault in the arguments

log = logging.getLogger(__name__)


async def run_call(tool: Tool, arguments: str, context: CallContext) -> ToolOutput:
    """The output of the call, or an error output with a sentence for the model.

    `arguments` is what the model wrote: JSON text, or for the built-in python tool its code.
    Raises nothing but the cancellation of the caller, which the tool has had before.
    """
    try:
        checked = _arguments(tool, arguments)
        output = await _timed(tool, checked, context)
    except ToolError as error:
        output = ToolOutput(str(error), is_error=True)
    return _bounded(output)


async def _timed(tool: Tool, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
    task = asyncio.current_task()
    try:
        async with asyncio.timeout(tool.timeout) as limit:
            output = await tool.call(arguments, context)
            if not isinstance(output, ToolOutput):
                raise TypeError(f"a tool must return a ToolOutput, not {type(output).__name__}")
            return output
    except ToolError:
        raise
    except asyncio.CancelledError:
        if task is not None and task.cancelling():
            raise
        return _failed(tool)  # the tool cancelled something of its own
    except TimeoutError:
        if not limit.expired():
            return _failed(tool)
        log.warning("The tool %s took longer than %g s.", tool.name, tool.timeout)
        raise ToolError(
            f"The tool took longer than {tool.timeout:g} seconds and was stopped."
        ) from None
    except (Exception, SystemExit):  # of exit(), which would end the server
        return _failed(tool)


def _failed(tool: Tool) -> ToolOutput:
    # What was wrong inside is for the log; a model that is told of paths and keys repeats them.
    log.exception("The tool %s failed.", tool.name)
    return ToolOutput("The tool failed: an internal error, which is in its log.", is_error=True)


def _arguments(tool: Tool, text: str) -> Mapping[str, Any]:
    if tool.builtin == "python":
        return {"code": text}
    try:
        arguments = json.loads(text.strip() or "{}", parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ToolError(
            f"The arguments are not JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ToolError(f"The arguments are not JSON that can be read: {error}.") from None
    if not isinstance(arguments, dict):
        raise ToolError("The arguments are not a JSON object; write them as {...}.")
    if fault := _fault(tool, arguments):
        raise ToolError(fault)
    return arguments


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _fault(tool: Tool, arguments: Mapping[str, Any]) -> str | None:
    """What is wrong with the arguments by the tool's schema, as a sentence."""
    # Slow to import; where there are tools, their checks at start-up have done it.
    import jsonschema  # type: ignore[import-untyped]
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # With a registry of its own, so that no "$ref" of somebody's schema is fetched from the net.
    validator = jsonschema.Draft202012Validator(plain_json(tool.parameters), registry=Registry())
    try:
        error = jsonschema.exceptions.best_match(validator.iter_errors(arguments))
    except (Unresolvable, RecursionError):
        log.warning("The schema of the tool %s cannot be used.", tool.name)
        return None  # the tool itself has to see
    if error is None:
        return None
    message: str = error.message
    if len(message) > _MAX_SENTENCE:
        message = message[:_MAX_SENTENCE] + "…"
    place = ".".join(str(part) for part in error.absolute_path)
    return f'The argument "{place}" is wrong: {message}.' if place else f"{message}."


def _bounded(output: ToolOutput) -> ToolOutput:
    text = output.text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no client could be sent
        text = text.encode("utf-8", "replace").decode()
    if len(text) > MAX_OUTPUT:
        half = MAX_OUTPUT // 2
        note = f"\n\n[{len(text) - 2 * half:,} characters are left out here]\n\n"
        text = text[:half] + note + text[-half:]
    return output if text is output.text else replace(output, text=text)
