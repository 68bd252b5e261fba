"""The tools that a server has, from the names that it is started with."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from ossia.errors import ConfigError
from ossia.tools.calculator import Calculator
from ossia.tools.checks import fault_of
from ossia.tools.clock import Clock
from ossia.tools.echo import Echo
from ossia.tools.options import ToolOptions
from ossia.tools.plugins import installed_plugins, plugin_tools, tools_of_object
from ossia.tools.tool import Tool

BUILTIN_NAMES = ("calculator", "echo", "time", "python", "browser")
DEMO = "demo"  # stands for the tools that need nothing and reach nothing
DEMO_NAMES = ("calculator", "echo", "time")

_CLOSE_SECONDS = 10.0  # that a tool may take to stop

log = logging.getLogger(__name__)


class ToolRegistry:
    """Tools by their names, in the order in which they were added."""

    def __init__(self) -> None:
        self._tools: dict[str, Tool] = {}

    @property
    def tools(self) -> Mapping[str, Tool]:
        return MappingProxyType(self._tools)

    def by_label(self, label: str) -> tuple[Tool, ...]:
        """The tools of one server label; none if nothing has it."""
        return tuple(tool for tool in self._tools.values() if tool.server_label == label)

    def add(self, tools: Iterable[Tool]) -> None:
        """Add all of them, or none.

        Raises:
            ConfigError: one of them has a name that is taken, or is not fit to be offered.
        """
        added: dict[str, Tool] = {}
        for tool in tools:
            if fault := fault_of(tool):
                raise ConfigError(f"The tool of the class {type(tool).__name__} {fault}.")
            taken = added.get(tool.name) or self._tools.get(tool.name)
            if taken is not None:
                raise ConfigError(
                    f'There are two tools with the name "{tool.name}", of {_origin(taken)} and of '
                    f"{_origin(tool)}; leave one out or rename it."
                )
            added[tool.name] = tool
        self._tools |= added

    async def close(self) -> None:
        """Close all tools, the last added first; a failure of one is logged and passed over."""
        while self._tools:
            name, tool = self._tools.popitem()
            try:
                # One after the other in this task: some may only be closed by who opened them.
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await tool.close()
            except Exception:
                log.exception("The tool %s could not be closed.", name)


def load_tools(names: Sequence[str], options: ToolOptions) -> ToolRegistry:
    """The tools of these names: built-in, `demo`, of installed plug-ins, or `module:object`.

    A name that is given twice counts once. Plug-ins that are not named are not even imported.

    Raises:
        ConfigError: a name is unknown, or what it names cannot be loaded or is not fit.
    """
    expanded = [
        name for given in names for name in (DEMO_NAMES if given == DEMO else (given.strip(),))
    ]
    registry = ToolRegistry()
    for name in dict.fromkeys(expanded):
        registry.add(_tools_named(name, options))
    return registry


def _tools_named(name: str, options: ToolOptions) -> list[Tool]:
    match name:
        case "calculator":
            return [Calculator()]
        case "echo":
            return [Echo()]
        case "time":
            return [Clock()]
        case "python":
            from ossia.tools.python import python_tool

            return [python_tool(options)]
        case "browser":
            from ossia.tools.browser import browser_tools

            return list(browser_tools(options))
    if ":" in name:
        return tools_of_object(name)
    tools = plugin_tools(name)
    if tools is None:
        raise ConfigError(_unknown(name))
    return tools


def _unknown(name: str) -> str:
    plugins = sorted(installed_plugins())
    near = difflib.get_close_matches(name, [*BUILTIN_NAMES, DEMO, *plugins], n=2)
    hint = f"did you mean {' or '.join(near)}? There" if near else "there"
    installed = f"the plug-ins {', '.join(plugins)}" if plugins else "no plug-ins"
    return (
        f'There is no tool "{name}"; {hint} are {", ".join(BUILTIN_NAMES)}, {DEMO}, {installed}, '
        "and module:object."
    )


def _origin(tool: Tool) -> str:
    return f"{type(tool).__module__}.{type(tool).__qualname__}"
