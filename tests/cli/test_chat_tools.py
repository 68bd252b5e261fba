from __future__ import annotations

import pytest

from ossia.cli.chat.tools import definitions, local_tools, run_tool
from ossia.errors import ConfigError


def test_a_call_runs_the_named_function() -> None:
    tools = local_tools("demo")
    assert run_tool(tools, "calculator", '{"expression": "17 * 3"}') == "51"
    assert run_tool(tools, "echo", '{"text": "hello"}') == "hello"
    assert "+00:00" in run_tool(tools, "time", '{"timezone": "UTC"}')
    assert "+00:00" in run_tool(tools, "time", "")


@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("weather", "{}", "Error: there is no function weather; there are: calculator, echo, time"),
        ("calculator", "{", "Error: "),
        ("calculator", "[1]", "Error: "),
        ("calculator", '{"expression": "1/0"}', "Error: "),
        ("time", '{"timezone": "Atlantis/Sunken"}', "Error: "),
    ],
)
def test_a_wrong_call_is_answered_and_never_raises(name: str, arguments: str, answer: str) -> None:
    assert run_tool(local_tools("demo"), name, arguments).startswith(answer)


def test_tools_are_chosen_by_name() -> None:
    assert [tool.name for tool in definitions(local_tools("echo,time"))] == ["echo", "time"]
    assert local_tools("none") == ()


@pytest.mark.parametrize("names", ["ecko", "python", "echo,nonsense:"])
def test_what_cannot_be_run_here_is_refused(names: str) -> None:
    with pytest.raises(ConfigError):
        local_tools(names)
