"""The tool that says what it is told."""

from __future__ import annotations

import asyncio

from ossia.tools.echo import Echo
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext, ToolOutput


def test_the_text_comes_back_as_it_was() -> None:
    output = asyncio.run(run_call(Echo(), '{"text": " Grüße,\\n\\u4e16界 "}', CallContext("c")))
    assert output == ToolOutput(" Grüße,\n世界 ")


def test_the_text_is_needed() -> None:
    output = asyncio.run(run_call(Echo(), "{}", CallContext("c")))
    assert output == ToolOutput("'text' is a required property.", is_error=True)
