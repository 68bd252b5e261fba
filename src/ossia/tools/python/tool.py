"""The `python` tool: its name, its schema, and what the model is told of a call."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ossia.errors import ConfigError
from ossia.tools.options import ToolOptions
from ossia.tools.python import layout
from ossia.tools.python.pool import Pool
from ossia.tools.python.probe import require_sandbox
from ossia.tools.python.session import START_SECONDS, Outcome, StartFailed
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

LEAST_MEMORY = 256 << 20  # bytes of address space; the interpreter and numpy take about half
_ROOM = START_SECONDS + layout.GRACE + 15.0  # seconds a call may take besides its code
_PARAMETERS = MappingProxyType(
    {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]}
)
_LOST = "The variables of earlier calls are lost; the next call starts a new session."


def python_tool(options: ToolOptions) -> Tool:
    """gpt-oss's own tool of that name, with the options' limits. Makes a sandbox to try it.

    Raises:
        ConfigError: no sandbox can be made on this machine, or the limits are too small.
    """
    if options.python_memory < LEAST_MEMORY:
        raise ConfigError(
            f"The python tool's memory of {options.python_memory >> 20} MB is too small to start "
            f"an interpreter with numpy; give it {LEAST_MEMORY >> 20} MB or more."
        )
    if options.python_timeout <= 0:
        raise ConfigError(
            f"The python tool's timeout of {options.python_timeout:g} s has to be above 0."
        )
    require_sandbox(layout.settings(options.python_memory))
    return PythonTool(options)


def sandbox_report() -> str:
    """One line, for `ossia doctor`: what the sandbox is made of, or why there is none."""
    try:
        require_sandbox(layout.settings(ToolOptions().python_memory))
    except ConfigError as error:
        return error.message
    packages = ", ".join(layout.offered_packages()) or "no packages"
    return (
        "Linux namespaces, seccomp and resource limits; "
        f"Python {platform.python_version()} with {packages}"
    )


class PythonTool(Tool):
    """Code runs in one sandboxed process for each conversation."""

    name = "python"
    parameters: Mapping[str, Any] = _PARAMETERS
    builtin = "python"

    def __init__(self, options: ToolOptions, pool: Pool | None = None) -> None:
        """Starts nothing; `pool` as it follows from the options, if not given."""
        self._seconds = options.python_timeout
        self._megabytes = options.python_memory >> 20
        self._pool = pool or Pool(layout.settings(options.python_memory))
        self.timeout = options.python_timeout + _ROOM

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Execute `code`. What it prints and its last value are the answer; variables are kept."""
        code = arguments.get("code")
        if not isinstance(code, str):
            raise ToolError("The python tool takes one argument, `code`, which is a text.")
        try:
            outcome, lost = await self._pool.run(
                context.session, code, self._seconds, context.progress
            )
        except StartFailed as error:
            raise ToolError(f"The python sandbox does not start now ({error.args[1]}).") from None
        return ToolOutput(
            text=self._text(outcome, lost),
            is_error=outcome.how != "ok",
            details={"outcome": outcome.how, "session_ended": outcome.ended},
        )

    async def close(self) -> None:
        """End all sessions."""
        await self._pool.close()

    def _text(self, outcome: Outcome, lost: bool) -> str:
        text = outcome.output
        if outcome.left_out:
            text += f"\n[... {outcome.left_out} bytes of output left out ...]\n"
        text += outcome.tail
        notes = [text] if text.strip() else []
        if lost:
            notes.insert(0, "[The session was restarted: variables of earlier calls are lost.]\n")
        if remark := self._remark(outcome):
            notes.append(f"[{remark}]")
        elif not text.strip():
            notes.append("[The code printed nothing; use print() to see values.]")
        return "".join(note if note.endswith("\n") else f"{note}\n" for note in notes)

    def _remark(self, outcome: Outcome) -> str:
        match outcome.how:
            case "ok" | "error":
                return ""
            case "timeout" if not outcome.ended:
                return f"The code was interrupted after {self._seconds:g} s; variables are kept."
            case "timeout":
                return f"The code was killed after {self._seconds:g} s. {_LOST}"
            case "interrupted":
                return f"The code was stopped.{f' {_LOST}' if outcome.ended else ''}"
            case "memory":
                return f"The code used more than {self._megabytes} MB of memory. {_LOST}"
            case "exit":
                return f"The code ended its process with exit status {outcome.detail}. {_LOST}"
            case "signal":
                return f"The process of the code was ended by {outcome.detail}. {_LOST}"
            case _:
                return f"The sandbox was lost. {_LOST}"
