"""Declared tools and the choice among them, in the present and the older form."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ossia.errors import InvalidRequest
from ossia.server.schema.chat import PromptOptions
from ossia.server.schema.tools import FunctionDefinition, NamedFunction, NamedTool, ToolSpec
from ossia.turn import ToolChoice, ToolDefinition

# The name becomes part of a message header, where blanks and signs mean something.
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


def is_legacy(options: PromptOptions) -> bool:
    """Whether the request speaks of `functions` and wants `function_call` in the answer."""
    return bool(options.functions) and not options.tools


def tools_and_choice(options: PromptOptions) -> tuple[tuple[ToolDefinition, ...], ToolChoice]:
    """What the model is shown, and what it may or has to call.

    Raises:
        InvalidRequest: a tool that gpt-oss cannot call, or a choice that is not among the tools.
    """
    if options.functions and options.tools:
        raise InvalidRequest(
            "functions is the older form of tools; send one of them, not both.", param="functions"
        )
    _refuse_mixed_choice(options)
    if options.functions:
        declared = tuple(_definitions(_functions(options.functions)))
        choice = _legacy_choice(options.function_call, declared)
    else:
        declared = tuple(_definitions(_tools(options.tools or ())))
        choice = _choice(options, declared)
    return ((), ToolChoice()) if choice is None else (declared, choice)


def _refuse_mixed_choice(options: PromptOptions) -> None:
    if options.functions and options.tool_choice not in (None, "auto"):
        raise InvalidRequest(
            "tool_choice goes with tools; with functions, send function_call.", param="tool_choice"
        )
    if not options.functions and options.function_call not in (None, "auto", "none"):
        raise InvalidRequest(
            "function_call goes with functions; with tools, send tool_choice.",
            param="function_call",
        )


def check_name(name: str, path: str) -> None:
    """Whether `name` can stand in a message header.

    Raises:
        InvalidRequest: it cannot; `path` is where it was given.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{path} is {name[:80]!r}; use 1 to 128 letters, digits, dots, hyphens or underscores.",
            param=path,
        )


def _tools(specs: Sequence[ToolSpec]) -> Iterator[tuple[str, FunctionDefinition]]:
    for index, spec in enumerate(specs):
        path = f"tools[{index}]"
        if spec.type != "function":
            raise InvalidRequest(
                f"{path} is of type {spec.type[:80]!r}; gpt-oss calls functions, so declare one: "
                "free text can be its only parameter, of type string.",
                param=f"{path}.type",
            )
        if spec.function is None:
            raise InvalidRequest(
                f"{path}.function is required.",
                param=f"{path}.function",
                code="missing_required_parameter",
            )
        yield f"{path}.function", spec.function


def _functions(functions: Sequence[FunctionDefinition]) -> Iterator[tuple[str, FunctionDefinition]]:
    for index, function in enumerate(functions):
        yield f"functions[{index}]", function


def _definitions(functions: Iterator[tuple[str, FunctionDefinition]]) -> Iterator[ToolDefinition]:
    names: set[str] = set()
    for path, function in functions:
        check_name(function.name, f"{path}.name")
        if function.name in names:
            raise InvalidRequest(
                f"Two tools have the name {function.name!r}; each needs its own.",
                param=f"{path}.name",
            )
        names.add(function.name)
        yield ToolDefinition(
            name=function.name,
            description=function.description or "",
            parameters=function.parameters,
            strict=bool(function.strict),
        )


def _choice(options: PromptOptions, declared: Sequence[ToolDefinition]) -> ToolChoice | None:
    """None hides the tools."""
    choice = options.tool_choice
    if choice is None or choice == "auto":
        return ToolChoice()
    if choice == "none":
        return None
    if choice == "required":
        if not declared:
            raise InvalidRequest(
                "tool_choice is required, but no tools are declared; declare one, or leave "
                "tool_choice out.",
                param="tool_choice",
            )
        return ToolChoice("required")
    if not isinstance(choice, str):
        if choice.type == "function" and choice.function is not None:
            path = "tool_choice.function.name"
            return ToolChoice("required", (_known(choice.function, path, declared),))
        if choice.type == "allowed_tools" and choice.allowed_tools is not None:
            allowed = choice.allowed_tools
            return _allowed(allowed.mode, allowed.tools, declared)
        if choice.type in ("function", "allowed_tools"):
            raise InvalidRequest(
                f"tool_choice.{choice.type} is required in a choice of this type.",
                param=f"tool_choice.{choice.type}",
                code="missing_required_parameter",
            )
    raise InvalidRequest(
        "tool_choice must be none, auto, required, or an object of type function or allowed_tools.",
        param="tool_choice" if isinstance(choice, str) else "tool_choice.type",
    )


def _allowed(
    mode: str, tools: Sequence[NamedTool], declared: Sequence[ToolDefinition]
) -> ToolChoice:
    path = "tool_choice.allowed_tools"
    if not tools:
        raise InvalidRequest(
            f"{path}.tools is empty; name a tool, or use tool_choice none.", param=f"{path}.tools"
        )
    names = []
    for index, tool in enumerate(tools):
        if tool.type != "function" or tool.function is None:
            raise InvalidRequest(
                f"{path}.tools[{index}] must be of type function and have a function with a name.",
                param=f"{path}.tools[{index}]",
            )
        place = f"{path}.tools[{index}].function.name"
        names.append(_known(tool.function, place, declared))
    names = list(dict.fromkeys(names))
    if mode == "auto":
        return ToolChoice("auto", tuple(names))
    if mode == "required":
        return ToolChoice("required", tuple(names))
    raise InvalidRequest(f"{path}.mode must be auto or required.", param=f"{path}.mode")


def _legacy_choice(
    choice: str | NamedFunction | None, declared: Sequence[ToolDefinition]
) -> ToolChoice | None:
    if choice is None or choice == "auto":
        return ToolChoice()
    if choice == "none":
        return None
    if isinstance(choice, str):
        raise InvalidRequest(
            "function_call must be none, auto, or an object with the name of a function.",
            param="function_call",
        )
    return ToolChoice("required", (_known(choice, "function_call.name", declared),))


def _known(function: NamedFunction, path: str, declared: Sequence[ToolDefinition]) -> str:
    if any(tool.name == function.name for tool in declared):
        return function.name
    raise InvalidRequest(
        f"{path} is {function.name[:80]!r}, which is not declared; declare it, or choose one that "
        "is.",
        param=path,
    )
