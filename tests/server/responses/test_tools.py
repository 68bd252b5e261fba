"""Which tools the model is shown for a request, what it calls them, and who runs them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossia.errors import InvalidRequest
from ossia.server.responses.tools import RequestTools, request_tools, server_offers
from ossia.server.server_tools import ServerTools
from ossia.server.toolset import Offer
from ossia.tools.echo import Echo
from ossia.tools.options import ToolOptions
from ossia.tools.registry import ToolRegistry, load_tools
from ossia.tools.tool import CallContext, Tool, ToolOutput
from ossia.turn import ToolChoice

JsonObject = dict[str, Any]

pytestmark = pytest.mark.anyio


class Named(Tool):
    """A tool that a test never calls."""

    parameters: Mapping[str, Any] = {"type": "object", "properties": {}}

    def __init__(self, name: str, label: str = "ossia", *, builtin: Any = None) -> None:
        self.name = name
        self.server_label = label
        self.builtin = builtin

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        raise NotImplementedError


class Remote(Named):
    """One of an MCP server, whose name for it is another."""

    def __init__(self, name: str, label: str) -> None:
        super().__init__(f"{label}_{name}", label)
        self.remote_name = name


def tools_of(*tools: Tool) -> ServerTools:
    registry = ToolRegistry()
    registry.add(tools)
    return ServerTools(registry)


DEMO = ServerTools(load_tools(["demo"], ToolOptions()))
WITH_BUILTINS = tools_of(
    Named("python", builtin="python"),
    Named("browser.search", builtin="browser"),
    Named("browser.open", builtin="browser"),
    Named("echo"),
)
FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
ECHO = {"type": "function", "name": "echo"}
OTHER = {"type": "function", "name": "news"}
CUSTOM = {"type": "custom", "name": "patch"}
MCP = {"type": "mcp", "server_label": "demo"}
SPACE = {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "find"}]}


async def tools(
    *specs: JsonObject, choice: str | JsonObject | None = None, server: ServerTools = DEMO
) -> RequestTools:
    return await request_tools(specs, choice, server)


async def names(*specs: JsonObject, server: ServerTools = DEMO) -> list[str]:
    return list((await tools(*specs, server=server)).toolset.offers)


async def offer(*specs: JsonObject, server: ServerTools = DEMO) -> Offer:
    """The one tool of these."""
    [found] = (await tools(*specs, server=server)).toolset.offers.values()
    return found


async def refusal(*specs: Any, choice: Any = None) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        await tools(*specs, choice=choice)
    assert refused.value.message.endswith(".")
    return refused.value


async def test_without_a_list_there_is_all_that_the_server_runs() -> None:
    found = await request_tools(None, None, DEMO)
    assert list(found.toolset.offers) == ["calculator", "echo", "time"]
    assert found.toolset.runs_on_server
    assert not found.listings
    assert await names() == []


async def test_a_function_is_the_clients() -> None:
    found = await offer({**FUNCTION, "description": "Of a city.", "strict": True})
    assert (found.kind, found.wire_name, found.namespace) == ("function", "weather", None)
    assert found.definition.name == "weather"
    [definition] = (await tools(FUNCTION)).toolset.definitions
    assert definition.parameters == {"type": "object"}
    assert definition.path == "tools[0].parameters"


async def test_functions_of_a_namespace_are_called_by_both_names() -> None:
    inner = [{"type": "function", "name": "find"}, CUSTOM, {"type": "shell"}]
    found = (await tools(SPACE | {"tools": inner})).toolset.offers
    assert list(found) == ["crm.find", "crm.patch"]
    assert (found["crm.find"].wire_name, found["crm.find"].namespace) == ("find", "crm")
    assert found["crm.patch"].kind == "custom"


async def test_the_namespace_of_all_functions_is_none() -> None:
    found = await offer(SPACE | {"name": "functions"})
    assert (found.name, found.wire_name, found.namespace) == ("find", "find", None)


async def test_a_custom_tool_takes_one_text() -> None:
    format_ = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    found = await offer(CUSTOM | {"description": "Changes files.", "format": format_})
    definition = found.definition
    assert definition.parameters is not None
    assert list(definition.parameters["properties"]) == ["input"]
    assert definition.description.startswith("Changes files.")  # type: ignore[union-attr]
    assert 'start: "a"' in definition.description  # type: ignore[union-attr]


async def test_a_label_stands_for_tools_of_this_server() -> None:
    for label in ("demo", "ossia"):
        found = await tools({**MCP, "server_label": label})
        assert list(found.toolset.offers) == ["calculator", "echo", "time"]
        assert {offer.server_label for offer in found.toolset.offers.values()} == {label}
        [listing] = found.listings
        assert (listing.label, len(listing.tools), listing.error) == (label, 3, None)


@pytest.mark.parametrize(
    ("allowed", "left"),
    [
        (None, ["calculator", "echo", "time"]),
        (["echo"], ["echo"]),
        ({"tool_names": ["time", "unknown"]}, ["time"]),
        ({"tool_names": None}, ["calculator", "echo", "time"]),
        ({"read_only": True}, ["calculator", "echo", "time"]),
        ([], []),
    ],
)
async def test_only_allowed_tools_are_listed_and_offered(allowed: Any, left: list[str]) -> None:
    found = await tools({**MCP, "allowed_tools": allowed})
    assert list(found.toolset.offers) == left
    assert [tool.name for tool in found.listings[0].tools] == left


@pytest.mark.parametrize(
    ("approval", "asking"),
    [
        ({}, set()),
        ({"require_approval": "never"}, set()),
        ({"require_approval": "always"}, {"calculator", "echo", "time"}),
        ({"require_approval": {"always": {"tool_names": ["echo"]}}}, {"echo"}),
        ({"require_approval": {"never": {"tool_names": ["echo"]}}}, {"calculator", "time"}),
        ({"require_approval": {"never": ["echo", "time"]}}, {"calculator"}),
        (
            {
                "require_approval": {
                    "never": {"tool_names": ["echo"]},
                    "always": {"tool_names": ["time"]},
                }
            },
            {"calculator", "time"},
        ),
        ({"require_approval": {}}, {"calculator", "echo", "time"}),
    ],
)
async def test_the_client_says_which_calls_it_is_asked_about(
    approval: JsonObject, asking: set[str]
) -> None:
    found = (await tools(MCP | approval)).toolset.offers
    assert {name for name, offer in found.items() if offer.needs_approval} == asking


async def test_a_tool_that_asks_by_itself_always_asks() -> None:
    careful = Named("delete")
    careful.needs_approval = True
    spec = {"type": "mcp", "server_label": "ossia", "require_approval": "never"}
    assert (await offer(spec, server=tools_of(careful))).needs_approval


async def test_names_of_a_remote_server_are_its_own() -> None:
    server = tools_of(Remote("find", "docs"))
    spec = {
        "type": "mcp",
        "server_label": "docs",
        "allowed_tools": ["find"],
        "require_approval": {"always": ["find"]},
    }
    found = await tools(spec, server=server)
    [only] = found.toolset.offers.values()
    assert (only.name, only.wire_name, only.needs_approval) == ("docs_find", "find", True)
    assert found.name_of("docs", "find") == "docs_find"
    assert found.name_of("other", "find") == "find"


@pytest.mark.parametrize("order", [(ECHO, MCP), (MCP, ECHO)])
async def test_a_tool_of_a_server_gives_way_to_a_function_of_its_name(order: Any) -> None:
    found = (await tools(*order)).toolset.offers
    assert sorted(found) == ["calculator", "demo.echo", "echo", "time"]
    assert found["echo"].kind == "function"
    assert found["demo.echo"].wire_name == "echo"


def test_tools_of_one_name_get_the_labels_of_their_servers() -> None:
    [first] = server_offers([Echo()], [], "one")
    [second] = server_offers([Echo()], [first.name], "two")
    assert (first.name, second.name) == ("echo", "two.echo")
    assert first.wire_name == second.wire_name == "echo"


@pytest.mark.parametrize(
    ("specs", "param"),
    [
        ((FUNCTION, FUNCTION), "tools[1].name"),
        ((FUNCTION, CUSTOM | {"name": "weather"}), "tools[1].name"),
        ((FUNCTION | {"name": "crm.find"}, SPACE), "tools[1].tools[0].name"),
    ],
)
async def test_two_tools_of_one_name_are_refused(specs: Any, param: str) -> None:
    refused = await refusal(*specs)
    assert "each needs its own" in refused.message
    assert refused.param == param


async def test_a_tool_of_this_server_that_two_specs_bring_is_offered_once() -> None:
    assert await names(MCP, MCP) == await names(MCP)
    searches = ({"type": "web_search"}, {"type": "web_search_preview"}, MCP)
    assert (await names(*searches, server=WITH_BUILTINS)).count("browser.search") == 1


async def test_hosted_tools_are_those_that_gpt_oss_was_trained_on() -> None:
    for kind in ("web_search", "web_search_preview"):
        assert await names({"type": kind}, server=WITH_BUILTINS) == [
            "browser.search",
            "browser.open",
        ]
    spec = {"type": "code_interpreter", "container": {"type": "auto"}}
    found = await tools(spec, server=WITH_BUILTINS)
    assert [tool.name for tool in found.toolset.builtins] == ["python"]
    assert not found.toolset.definitions


@pytest.mark.parametrize("kind", ["file_search", "image_generation", "shell", "web_search", ""])
async def test_what_cannot_run_here_is_left_out_with_a_word(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = tools_of(Named("echo"))
    for _ in range(2):
        assert await names({"type": kind}, FUNCTION, server=server) == ["weather"]
    [warning] = caplog.records  # once: agents send the same list with each request
    assert repr(kind) in warning.message
    refused = await refusal({"type": kind}, choice={"type": kind})
    assert refused.param == "tool_choice"


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("required", ToolChoice("required")),
        ({"type": "function", "name": "weather"}, ToolChoice("required", ("weather",), False)),
        (
            {"type": "function", "function": {"name": "weather"}},
            ToolChoice("required", ("weather",), False),
        ),
        ({"type": "function", "name": "crm.find"}, ToolChoice("required", ("crm.find",), False)),
        (
            {"type": "function", "name": "find", "namespace": "crm"},
            ToolChoice("required", ("crm.find",), False),
        ),
        ({"type": "custom", "name": "patch"}, ToolChoice("required", ("patch",), False)),
        (
            {"type": "mcp", "server_label": "ossia", "name": "echo"},
            ToolChoice("required", ("echo",), False),
        ),
        ({"type": "mcp", "server_label": "ossia"}, ToolChoice("required", ("echo",), True)),
        ({"type": "web_search"}, ToolChoice("required", (), True)),
        ({"type": "code_interpreter"}, ToolChoice("required", (), True)),
        (
            {
                "type": "allowed_tools",
                "mode": "required",
                "tools": [{"type": "function", "name": "weather"}, {"type": "web_search"}],
            },
            ToolChoice("required", ("weather",), True),
        ),
        (
            {"type": "allowed_tools", "tools": [{"type": "custom", "name": "patch"}] * 2},
            ToolChoice("auto", ("patch",), False),
        ),
    ],
)
async def test_the_choice_is_told_in_every_form(choice: Any, chosen: ToolChoice) -> None:
    everything = (
        *(FUNCTION, SPACE, CUSTOM, {"type": "web_search"}, {"type": "code_interpreter"}),
        {"type": "mcp", "server_label": "ossia", "allowed_tools": ["echo"]},
    )
    found = await tools(*everything, choice=choice, server=WITH_BUILTINS)
    assert found.toolset.choice == chosen


async def test_the_choice_none_hides_the_tools() -> None:
    found = await tools(FUNCTION, MCP, choice="none")
    assert not found.toolset.offers


@pytest.mark.parametrize(
    ("specs", "choice", "param"),
    [
        ((), "required", "tool_choice"),
        ((FUNCTION,), "weather", "tool_choice"),
        ((FUNCTION,), {}, "tool_choice"),
        ((FUNCTION,), {"type": "function"}, "tool_choice"),
        ((FUNCTION,), {"type": "function", "name": "other"}, "tool_choice"),
        ((FUNCTION,), {"type": "custom", "name": "weather"}, "tool_choice"),
        ((MCP,), {"type": "mcp", "server_label": "other"}, "tool_choice"),
        ((FUNCTION,), {"type": "allowed_tools"}, "tool_choice.tools"),
        ((FUNCTION,), {"type": "allowed_tools", "tools": []}, "tool_choice.tools"),
        ((FUNCTION,), {"type": "allowed_tools", "tools": "weather"}, "tool_choice.tools"),
        ((FUNCTION,), {"type": "allowed_tools", "tools": ["weather"]}, "tool_choice.tools[0]"),
        (
            (FUNCTION,),
            {"type": "allowed_tools", "tools": [FUNCTION, OTHER]},
            "tool_choice.tools[1]",
        ),
        (
            (FUNCTION,),
            {"type": "allowed_tools", "mode": "none", "tools": [FUNCTION]},
            "tool_choice.mode",
        ),
    ],
)
async def test_a_choice_that_cannot_be_met_is_refused(specs: Any, choice: Any, param: str) -> None:
    assert (await refusal(*specs, choice=choice)).param == param


@pytest.mark.parametrize(
    ("spec", "param"),
    [
        ("weather", "tools[0]"),
        ({}, "tools[0].type"),
        ({"type": 5}, "tools[0].type"),
        ({"type": "function"}, "tools[0].name"),
        ({"type": "function", "name": "a b"}, "tools[0].name"),
        ({"type": "function", "name": ""}, "tools[0].name"),
        ({**FUNCTION, "parameters": []}, "tools[0].parameters"),
        ({"type": "custom", "name": "<|end|>"}, "tools[0].name"),
        ({"type": "namespace", "name": "crm"}, "tools[0].tools"),
        ({**SPACE, "name": "a b"}, "tools[0].name"),
        ({**SPACE, "tools": "find"}, "tools[0].tools"),
        ({**SPACE, "tools": ["find"]}, "tools[0].tools[0]"),
        ({**SPACE, "tools": [{"type": "function"}]}, "tools[0].tools[0].name"),
        ({"type": "mcp"}, "tools[0].server_label"),
        ({**MCP, "server_label": "a b"}, "tools[0].server_label"),
        ({**MCP, "server_label": "other"}, "tools[0].server_url"),
        ({**MCP, "allowed_tools": "echo"}, "tools[0].allowed_tools"),
        ({**MCP, "allowed_tools": 5}, "tools[0].allowed_tools"),
        ({**MCP, "require_approval": "sometimes"}, "tools[0].require_approval"),
        ({**MCP, "require_approval": {"never": "echo"}}, "tools[0].require_approval.never"),
        ({**MCP, "server_url": 5}, "tools[0].server_url"),
        ({**MCP, "server_url": "http://["}, "tools[0].server_url"),
        ({**MCP, "server_url": "https://127.0.0.1/mcp"}, "tools[0].server_url"),
        ({**MCP, "server_url": "https://h", "headers": ["a"]}, "tools[0].headers"),
        ({**MCP, "server_url": "https://h", "headers": {"a": 5}}, "tools[0].headers"),
    ],
)
async def test_a_tool_that_cannot_be_declared_is_refused(spec: Any, param: str) -> None:
    assert (await refusal(spec)).param == param


scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=3))
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "name", "never", "tool_names"]), inner, max_size=2
        )
    ),
    max_leaves=4,
)
KINDS = ["function", "custom", "namespace", "mcp", "web_search", "allowed_tools"]
kinds = st.one_of(st.sampled_from(KINDS), anything)
named = st.one_of(st.sampled_from(["weather", "echo", "demo"]), anything)
objects = st.fixed_dictionaries(
    {"type": kinds},
    optional={
        "name": named,
        "server_label": named,
        # No URL: an address would be looked up.
        **dict.fromkeys(("parameters", "format", "description", "allowed_tools", "mode"), anything),
        **dict.fromkeys(("require_approval", "headers", "function", "namespace"), anything),
        "tools": st.lists(st.fixed_dictionaries({"type": kinds, "name": named}), max_size=2)
        | anything,
    },
)


@settings(max_examples=150)
@given(st.lists(objects | anything, max_size=3), objects | anything)
def test_any_list_of_tools_is_taken_or_refused(specs: Any, choice: Any) -> None:
    try:
        found = asyncio.run(request_tools(specs, choice, DEMO))
    except InvalidRequest as error:
        refused = error
    else:
        assert all(name == offer.name for name, offer in found.toolset.offers.items())
        return
    assert refused.param is not None
    assert refused.param.startswith("tool")
