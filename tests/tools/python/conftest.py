"""Conversations with the real tool, in real sandboxes, where this machine can make them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from ossia.errors import ConfigError
from ossia.tools.options import ToolOptions
from ossia.tools.python import layout
from ossia.tools.python.probe import require_sandbox
from ossia.tools.python.tool import PythonTool
from ossia.tools.tool import CallContext, ToolOutput

T = TypeVar("T")
MEMORY = 512 << 20  # bytes


class Notebook:
    """The tool with conversations that end with the event loop of each `run`."""

    def run(self, calls: Callable[[PythonTool], Awaitable[T]], *, seconds: float = 60.0) -> T:
        """What `calls` does with a tool that gives code so many seconds."""

        async def then_close() -> T:
            tool = PythonTool(ToolOptions(python_memory=MEMORY, python_timeout=seconds))
            try:
                return await calls(tool)
            finally:
                await tool.close()

        return asyncio.run(then_close())

    def __call__(self, *codes: str, seconds: float = 60.0) -> list[ToolOutput]:
        """The answers to the calls of one conversation."""

        async def one_after_the_other(tool: PythonTool) -> list[ToolOutput]:
            return [await call(tool, code) for code in codes]

        return self.run(one_after_the_other, seconds=seconds)


async def call(tool: PythonTool, code: str, session: str = "a") -> ToolOutput:
    return await tool.call({"code": code}, CallContext(session))


@pytest.fixture(scope="session")
def notebook() -> Notebook:
    try:
        require_sandbox(layout.settings(MEMORY))
    except ConfigError as error:
        pytest.skip(error.message)
    return Notebook()
