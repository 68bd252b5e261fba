"""A server has the tools that it is started with, or does not start."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from ossia.errors import ConfigError
from ossia.tools.echo import Echo
from ossia.tools.options import ToolOptions
from ossia.tools.registry import ToolRegistry, load_tools
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext, Tool, ToolOutput

OPTIONS = ToolOptions()


class Plain(Tool):
    """A tool of any name."""

    parameters: Mapping[str, Any] = {"type": "object"}

    def __init__(self, name: str = "plain", **attributes: Any) -> None:
        self.name = name
        vars(self).update(attributes)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        return ToolOutput("")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory; what was imported from it is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


def test_no_names_are_no_tools() -> None:
    assert dict(load_tools([], OPTIONS).tools) == {}


def test_built_in_tools_have_names() -> None:
    assert list(load_tools(["time", "echo"], OPTIONS).tools) == ["time", "echo"]


def test_demo_is_three_tools_and_what_is_named_twice_is_there_once() -> None:
    registry = load_tools(["echo", "demo", "demo"], OPTIONS)
    assert list(registry.tools) == ["echo", "calculator", "time"]


MODULE = '''
from ossia.tools.tool import Tool, ToolOutput

class Shout(Tool):
    name = "shout"
    parameters = {"type": "object"}
    async def call(self, arguments, context):
        return ToolOutput("HELLO")

class Names:
    tool = Shout()

def whisper(text: str) -> str:
    """Says it softly."""
    return text.lower()

everything = [Shout, whisper]
number = 3
class Other: pass
class Needs(Shout):
    def __init__(self, key): pass
def bad(*texts: str) -> str: ...
'''


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("voices_a:Shout", ["shout"]),
        ("voices_a:Names.tool", ["shout"]),
        ("voices_a:whisper", ["whisper"]),
        ("voices_a:everything", ["shout", "whisper"]),
    ],
)
def test_objects_of_modules_in_the_current_directory(
    folder: Path, name: str, names: list[str]
) -> None:
    (folder / "voices_a.py").write_text(MODULE)
    assert list(load_tools([name], OPTIONS).tools) == names


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("voices_b:nothing", 'The module "voices_b" has no "nothing"'),
        ("voices_b:number", 'The tool "voices_b:number" is of the type int; it must be a Tool'),
        ("voices_b:Other", "must be a Tool"),
        ("voices_b:Needs", "cannot be made: TypeError: .*'key'"),
        ("voices_b:bad", "cannot be made: ValueError: .*texts"),
        ("voices_c:tool", "cannot be imported: ModuleNotFoundError: No module named 'voices_c'"),
        ("voices_broken:tool", "cannot be imported: ZeroDivisionError: division by zero"),
        ("voices_exit:tool", "cannot be imported: SystemExit"),
        (":tool", "not of the form module:object"),
        ("voices_b:", "not of the form module:object"),
        ("calculater", 'There is no tool "calculater"; did you mean calculator'),
        ("", "There is no tool"),
        ("nonsense", "there are calculator, echo, time, python, browser, demo"),
    ],
)
def test_what_cannot_be_loaded_is_told_in_a_sentence(
    folder: Path, name: str, sentence: str
) -> None:
    (folder / "voices_b.py").write_text(MODULE)
    (folder / "voices_broken.py").write_text("1 / 0")
    (folder / "voices_exit.py").write_text("raise SystemExit(1)")
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_tools([name], OPTIONS)
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith(".")


def test_two_tools_of_one_name_are_refused(folder: Path) -> None:
    (folder / "voices_d.py").write_text(MODULE.replace('"shout"', '"echo"'))
    with pytest.raises(
        ConfigError,
        match=r'two tools .* "echo", of ossia.tools.echo.Echo and of voices_d',
    ):
        load_tools(["echo", "voices_d:Shout"], OPTIONS)


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        (Plain("two words"), "has the name 'two words', which is not 1 to 128"),
        (Plain(""), "has the name ''"),
        (Plain("x" * 129), "which is not 1 to 128"),
        (Plain(3), "has no name"),  # type: ignore[arg-type]
        (Plain(description=None), "description"),
        (Plain(timeout=0), "timeout"),
        (Plain(timeout=float("nan")), "timeout"),
        (Plain(parameters={"type": "string"}), 'of the type "object"'),
        (Plain(parameters=None), 'of the type "object"'),
        (Plain(parameters={"type": "object", "properties": {1j}}), "not JSON"),
        (Plain(parameters={"type": "object", "required": 1}), "not a JSON schema"),
        (Plain(parameters={"type": "object", "properties": {"a": {"type": "text"}}}), "schema"),
    ],
)
def test_tools_that_are_not_fit_are_refused(tool: Tool, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ToolRegistry().add([tool])


def test_parameters_may_be_read_only() -> None:
    inner = MappingProxyType({"a": MappingProxyType({"type": "string"})})
    tool = Plain(parameters=MappingProxyType({"type": "object", "properties": inner}))
    ToolRegistry().add([tool])
    output = asyncio.run(run_call(tool, '{"a": 1}', CallContext("c")))
    assert output.text == "The argument \"a\" is wrong: 1 is not of type 'string'."


def test_tools_are_added_all_or_not_at_all() -> None:
    registry = ToolRegistry()
    registry.add([Plain("a")])
    with pytest.raises(ConfigError, match='name "a"'):
        registry.add([Plain("b"), Plain("a")])
    with pytest.raises(ConfigError, match='name "c"'):
        registry.add([Plain("c"), Plain("c")])
    assert list(registry.tools) == ["a"]


def test_tools_are_found_by_the_label_of_their_server() -> None:
    registry = load_tools(["echo"], OPTIONS)
    there = [Plain("a", server_label="there"), Plain("b", server_label="there")]
    registry.add(there)
    assert registry.by_label("there") == tuple(there)
    assert [type(tool) for tool in registry.by_label("ossia")] == [Echo]
    assert registry.by_label("nowhere") == ()


class Closes(Plain):
    """Notes that it was closed."""

    def __init__(self, name: str, closed: list[str], error: Exception | None = None) -> None:
        super().__init__(name)
        self._closed = closed
        self._error = error

    async def close(self) -> None:
        self._closed.append(self.name)
        if self._error is not None:
            raise self._error


def test_all_are_closed_although_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []
    registry = ToolRegistry()
    registry.add([Closes("a", closed), Closes("b", closed, OSError("gone")), Closes("c", closed)])
    asyncio.run(registry.close())
    assert closed == ["c", "b", "a"]
    assert "The tool b could not be closed." in caplog.text
    assert not registry.tools
