"""Tools of installed packages and of modules of the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable
from importlib.metadata import EntryPoint, entry_points

from ossia.errors import ConfigError
from ossia.tools.functions import function_tool
from ossia.tools.tool import Tool

ENTRY_POINT_GROUP = "ossia.tools"


def installed_plugins() -> dict[str, str]:
    """The name of each installed plug-in, with `module:object` and the package that has it."""
    return {name: _described(plugin) for name, plugin in _plugins().items()}


def plugin_tools(name: str) -> list[Tool] | None:
    """The tools of an installed plug-in; None if there is none of that name.

    Raises:
        ConfigError: it cannot be imported, or is not a tool.
    """
    plugin = _plugins().get(name)
    if plugin is None:
        return None
    try:
        found = plugin.load()
    except (Exception, SystemExit) as error:  # whatever a stranger's module does on import
        raise ConfigError(
            f'The tool plug-in "{name}" ({_described(plugin)}) cannot be loaded: {_reason(error)}'
        ) from error
    return _tools(found, f'The tool plug-in "{name}"')


def tools_of_object(path: str) -> list[Tool]:
    """The tools of `module:object`; the current directory can be imported from.

    Raises:
        ConfigError: it cannot be imported, or is not a tool.
    """
    module_name, _, object_path = path.partition(":")
    if not (module_name and object_path):
        raise ConfigError(f'The tool "{path}" is not of the form module:object.')
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)  # as `python -m` does
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f'The module "{module_name}" of the tool "{path}" cannot be imported: {_reason(error)}'
        ) from error
    for part in object_path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ConfigError(f'The module "{module_name}" has no "{object_path}".') from None
    return _tools(found, f'The tool "{path}"')


def _plugins() -> dict[str, EntryPoint]:
    found: Iterable[EntryPoint] = entry_points(group=ENTRY_POINT_GROUP)
    return {plugin.name: plugin for plugin in found}


def _described(plugin: EntryPoint) -> str:
    if plugin.dist is None:
        return plugin.value
    return f"{plugin.value} of {plugin.dist.name} {plugin.dist.version}"


def _tools(found: object, subject: str) -> list[Tool]:
    """The tools that an object stands for."""
    if isinstance(found, Tool):
        return [found]
    if isinstance(found, list | tuple):
        return [tool for part in found for tool in _tools(part, f"A part of {_inner(subject)}")]
    try:
        if isinstance(found, type) and issubclass(found, Tool):
            return [found()]
        if callable(found) and not isinstance(found, type):
            return [function_tool(found)]
    except Exception as error:
        raise ConfigError(f"{subject} cannot be made: {_reason(error)}") from error
    raise ConfigError(
        f"{subject} is of the type {type(found).__name__}; it must be a Tool, a subclass of Tool, "
        "a function or a list of those."
    )


def _inner(subject: str) -> str:
    return subject[0].lower() + subject[1:]


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    line = text.splitlines()[0].rstrip(".") if text else ""
    return f"{type(error).__name__}: {line}." if line else f"{type(error).__name__}."
