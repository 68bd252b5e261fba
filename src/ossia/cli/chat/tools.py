"""Functions that `ossia chat --tools NAME` offers to the model and runs itself."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from ossia.errors import ConfigError
from ossia.tools.options import ToolOptions
from ossia.tools.registry import load_tools
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext, Tool
from ossia.turn import ToolDefinition


def local_tools(names: str) -> tuple[Tool, ...]:
    """The tools of these names, with commas between them; `none` is none.

    Raises:
        ConfigError: one that does not exist, or that only a server can run.
    """
    if names == "none":
        return ()
    tools = load_tools(names.split(","), ToolOptions()).tools
    for tool in tools.values():
        if tool.builtin is not None:
            raise ConfigError(
                f"ossia chat cannot run {tool.builtin}; start ossia serve with --tool "
                f"{tool.builtin}, and use its API."
            )
    return tuple(tools.values())


def definitions(tools: Sequence[Tool]) -> tuple[ToolDefinition, ...]:
    """What the model is shown of them."""
    return tuple(ToolDefinition(tool.name, tool.description, tool.parameters) for tool in tools)


def run_tool(tools: Sequence[Tool], name: str, arguments: str) -> str:
    """Run the call that the model wrote; `arguments` is its JSON text.

    Never raises for what a model can write: a wrong call is answered with a sentence that starts
    with "Error:", so that the model can try again.
    """
    tool = next((tool for tool in tools if tool.name == name), None)
    if tool is None:
        offered = ", ".join(tool.name for tool in tools) or "none"
        return f"Error: there is no function {name}; there are: {offered}."
    context = CallContext(session=secrets.token_hex(8))
    output = asyncio.run(run_call(tool, arguments or "{}", context))
    return f"Error: {output.text}" if output.is_error else output.text
