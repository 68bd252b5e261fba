"""Tools from Python functions: their schema from the signature, their description from the docs."""

from __future__ import annotations

import asyncio
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, overload

from ossia.tools.checks import fault_of_name
from ossia.tools.tool import DEFAULT_TIMEOUT, CallContext, Tool, ToolError, ToolOutput

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

Function = Callable[..., Any]


@overload
def function_tool(
    function: Function, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT
) -> Tool: ...
@overload
def function_tool(
    function: None = None, *, name: str | None = None, timeout: float = DEFAULT_TIMEOUT
) -> Callable[[Function], Tool]: ...
def function_tool(
    function: Function | None = None,
    *,
    name: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Tool | Callable[[Function], Tool]:
    """The tool that calls a function; also a decorator, with and without arguments.

    Arguments are checked against the annotations, as pydantic understands them; a parameter
    annotated `CallContext` gets the context of the call instead. A plain function runs in a
    thread, which goes on when the time is over: it should end by itself. The result is given to
    the model as it is if it is a string, and else as JSON.

    Args:
        name: what the model calls it; the function's own name if left out.
        timeout: seconds a call may take.

    Raises:
        ValueError: the function cannot be a tool.
    """
    if function is None:
        return lambda decorated: _FunctionTool(decorated, name, timeout)
    return _FunctionTool(function, name, timeout)


class _FunctionTool(Tool):
    def __init__(self, function: Function, name: str | None, timeout: float) -> None:
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        if fault := fault_of_name(self.name):
            raise ValueError(f"The function {fault}; give it another with `name=`.")
        self.description = inspect.getdoc(function) or ""
        self.timeout = timeout
        self._function = function
        self._is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004  (of an object that can be called)
        )
        hints = _hints(self.name, function)
        self._context_names = [key for key, hint in hints.items() if hint is CallContext]
        self._model = _arguments_model(self.name, function, hints)
        self.parameters = _schema(self.name, self._model)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Raises ToolError for arguments of wrong types, and whatever the function raises."""
        from pydantic import ValidationError

        try:
            checked = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            raise ToolError(_sentence(error)) from None
        # Only what was given: the function has its defaults itself.
        given = {
            typing.cast(str, type(checked).model_fields[field].alias): getattr(checked, field)
            for field in checked.model_fields_set
        }
        given |= dict.fromkeys(self._context_names, context)
        if self._is_coroutine:
            result = await self._function(**given)
        else:
            result = await asyncio.to_thread(self._function, **given)
        return _output(result)


def _hints(name: str, function: Function) -> dict[str, Any]:
    """The annotation of each parameter; Any for those without."""
    target = function if inspect.isroutine(function) else type(function).__call__
    try:
        hints = typing.get_type_hints(target, include_extras=True)
        parameters = inspect.signature(function).parameters
    except (NameError, TypeError, ValueError) as error:
        raise ValueError(f"The annotations of the function {name} are not known: {error}") from None
    return {key: hints.get(key, Any) for key in parameters}


def _arguments_model(name: str, function: Function, hints: Mapping[str, Any]) -> type[BaseModel]:
    from pydantic import ConfigDict, Field, create_model
    from pydantic.errors import PydanticUserError

    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ValueError(
                f"The function {name} cannot be a tool: its parameter {parameter} has no name "
                "that the model could give it by."
            )
        if hints[parameter.name] is CallContext:
            continue
        default = ... if parameter.default is parameter.empty else parameter.default
        # By alias, since a model has names of its own (`json`, `copy`) that a field cannot have.
        field = Field(default, alias=parameter.name)
        fields[f"argument_{len(fields)}"] = (hints[parameter.name], field)
    try:
        return create_model(
            name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields
        )
    except PydanticUserError as error:
        raise ValueError(
            f"The function {name} cannot be a tool: {error.message.splitlines()[0]}"
        ) from None


def _schema(name: str, model: type[BaseModel]) -> Mapping[str, Any]:
    from pydantic.errors import PydanticUserError

    try:
        schema = model.model_json_schema(by_alias=True)
    except PydanticUserError as error:
        raise ValueError(
            f"The function {name} cannot be a tool: {error.message.splitlines()[0]}"
        ) from None
    # Titles only repeat the names.
    schema.pop("title", None)
    for parameter in schema.get("properties", {}).values():
        parameter.pop("title", None)
    return schema


def _sentence(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    match first["type"]:
        case "missing":
            return f'The argument "{place}" is missing.'
        case "extra_forbidden":
            return f'There is no argument "{place}".'
        case _:
            return f'The argument "{place}" is wrong: {first["msg"]}.'


def _output(result: object) -> ToolOutput:
    if isinstance(result, ToolOutput):
        return result
    if isinstance(result, str):
        return ToolOutput(result)
    from pydantic_core import to_json

    return ToolOutput(to_json(result).decode())
