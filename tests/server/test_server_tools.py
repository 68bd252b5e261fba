"""The tools that a server can run, and what requests may call the servers they belong to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ossia.config import ServerConfig
from ossia.errors import ConfigError, InvalidRequest
from ossia.server.server_tools import ServerTools, server_tools
from ossia.server.toolset import Offer, Toolset, by_name, server_offer
from ossia.tools.echo import Echo
from ossia.tools.registry import ToolRegistry
from ossia.tools.tool import CallContext, Tool, ToolOutput
from ossia.turn import BuiltinTool, ToolChoice, ToolDefinition

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def demo() -> AsyncIterator[ServerTools]:
    tools = server_tools(ServerConfig(tool_servers=("demo",)))
    await tools.start()
    yield tools
    await tools.close()


class Closing(Tool):
    """Knows whether it was closed."""

    parameters: Mapping[str, Any] = {"type": "object"}
    is_closed = False

    def __init__(self, name: str, **attributes: Any) -> None:
        self.name = name
        for key, value in attributes.items():
            setattr(self, key, value)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        raise NotImplementedError

    async def close(self) -> None:
        self.is_closed = True


def names(tools: Any) -> list[str]:
    return [tool.name for tool in tools]


def test_a_server_without_options_runs_nothing() -> None:
    tools = server_tools(ServerConfig())
    assert tools.all() == []
    assert tools.labels() == set()
    assert tools.by_label("ossia") is None
    assert tools.by_label("demo") is None


async def test_the_demo_tools_are_known_by_both_labels(demo: ServerTools) -> None:
    assert names(demo.all()) == names(demo.own()) == ["calculator", "echo", "time"]
    assert demo.labels() == {"ossia", "demo"}
    for label in ("ossia", "demo"):
        assert names(demo.by_label(label)) == ["calculator", "echo", "time"]
    assert demo.by_label("other") is None
    assert demo.builtin("python") == demo.builtin("") == []


def test_tools_are_named_once_however_often_they_are_given() -> None:
    tools = server_tools(ServerConfig(tools=("echo", "demo", "echo"), tool_servers=("demo, ",)))
    assert names(tools.own()) == ["echo", "calculator", "time"]


def test_an_unknown_tool_is_refused() -> None:
    with pytest.raises(ConfigError):
        server_tools(ServerConfig(tools=("ecoh",)))


async def test_builtin_tools_are_found_by_their_namespace(tmp_path: Path) -> None:
    (tmp_path / "owls.txt").write_text("Owls fly at night.")
    tools = server_tools(ServerConfig(tools=("browser",), browser_folder=str(tmp_path)))
    found = tools.builtin("browser")
    assert names(found) == ["browser.search", "browser.open", "browser.find"]
    assert tools.builtin("python") == []
    await tools.close()


async def test_plug_ins_may_have_a_label_of_their_own_and_are_closed() -> None:
    registry = ToolRegistry()
    plug_in = Closing("find", server_label="crm")
    registry.add([plug_in, Closing("other")])
    tools = ServerTools(registry)
    assert tools.by_label("crm") == [plug_in]
    assert names(tools.by_label("ossia")) == ["find", "other"]
    assert tools.labels() == {"crm", "ossia", "demo"}
    await tools.close()
    assert plug_in.is_closed


@pytest.mark.parametrize(
    "url",
    ["", "demo", "ftp://example.org", "http://[", "https://127.0.0.1/mcp", "https://u:p@h/"],
)
async def test_an_address_that_is_not_contacted_is_refused(demo: ServerTools, url: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await demo.connect("label", url, {}, "tools[3]")
    assert refused.value.param == "tools[3].server_url"


def test_a_name_that_is_taken_gets_the_label_before_it() -> None:
    assert server_offer(Echo()).name == "echo"
    offer = server_offer(Echo(), {"echo"}, label="demo")
    assert (offer.name, offer.wire_name, offer.server_label) == ("demo.echo", "echo", "demo")


def test_a_builtin_tool_keeps_its_name_and_python_takes_text() -> None:
    python = server_offer(Closing("python", builtin="python"), {"python"})
    assert python.definition == BuiltinTool("python", None)
    search = server_offer(Closing("browser.search", builtin="browser"))
    assert search.definition == BuiltinTool("browser.search", {"type": "object"})
    assert search.is_builtin


def test_either_side_may_ask_for_approval() -> None:
    careful = Closing("delete", needs_approval=True)
    assert server_offer(careful).needs_approval
    assert server_offer(Echo(), needs_approval=True).needs_approval
    assert not server_offer(Echo()).needs_approval


LOCAL = Offer(ToolDefinition("local"))
OTHER = Offer(ToolDefinition("other"))


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        (ToolChoice(), ToolChoice("auto", ("local", "other"), builtins=False)),
        (ToolChoice("required"), ToolChoice("required", ("local", "other"), builtins=False)),
        (ToolChoice("auto", ("local", "echo")), ToolChoice("auto", ("local",), builtins=False)),
        (ToolChoice("required", ("echo",)), ToolChoice("auto", (), builtins=False)),
    ],
)
def test_a_choice_without_the_servers_tools_is_one_among_the_clients(
    choice: ToolChoice, left: ToolChoice
) -> None:
    offers = [("a", LOCAL), ("b", server_offer(Echo())), ("c", OTHER)]
    assert Toolset(by_name(offers)).without_server_tools(choice) == left


def test_two_tools_of_one_name_are_refused_where_the_second_is_declared() -> None:
    with pytest.raises(InvalidRequest) as refused:
        by_name([("tools[0]", LOCAL), ("tools[1]", LOCAL)])
    assert refused.value.param == "tools[1]"
