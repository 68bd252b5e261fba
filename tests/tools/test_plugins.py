"""The example package is installed, found, loaded when named, and called."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_tool"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the example was installed into, offline, by pip."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    copy = tmp_path_factory.mktemp("plugin") / "source"  # setuptools builds in the source
    for file in EXAMPLE.rglob("*"):
        if file.suffix in (".py", ".toml", ".md"):
            target = copy / file.relative_to(EXAMPLE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    site = copy.parent / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    install += ["--no-cache-dir", "--no-build-isolation", "--target", str(site), str(copy)]
    subprocess.run(install, check=True, timeout=240)
    return site


def run(program: str, site: Path) -> str:
    """What a program prints that has the folder on its path."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_plugin_is_listed_but_not_loaded(installed: Path) -> None:
    program = """
import sys
from ossia.tools.options import ToolOptions
from ossia.tools.plugins import installed_plugins
from ossia.tools.registry import load_tools
print(installed_plugins()["dice"], *load_tools(["demo"], ToolOptions()).tools)
print("ossia_dice" in sys.modules)
"""
    assert run(program, installed).splitlines() == [
        "ossia_dice:roll of ossia-dice 1.0.0 calculator echo time",
        "False",
    ]


def test_a_plugin_that_is_named_can_be_called(installed: Path) -> None:
    program = """
import asyncio, json
from ossia.tools.options import ToolOptions
from ossia.tools.registry import load_tools
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext
tool = load_tools(["dice"], ToolOptions()).tools["roll"]
assert tool.parameters["properties"]["sides"]["description"] == "Sides of each die"
for arguments in ('{"sides": 2, "count": 3}', '{"sides": 1}'):
    print(asyncio.run(run_call(tool, arguments, CallContext("c"))).text)
"""
    rolled, refused = run(program, installed).splitlines()
    assert set(map(int, rolled.split("[")[1].split("]")[0].split(","))) <= {1, 2}
    assert refused.startswith('The argument "sides" is wrong')


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("ossia_missing:tool", "cannot be loaded: ModuleNotFoundError"),
        ("ossia_dice:nothing", "cannot be loaded: AttributeError"),
        (
            "ossia_dice:secrets",
            'The tool plug-in "broken" is of the type module;',
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_says_why(
    installed: Path, tmp_path: Path, value: str, sentence: str
) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[ossia.tools]\nbroken = {value}\n")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from ossia.errors import ConfigError
from ossia.tools.options import ToolOptions
from ossia.tools.registry import load_tools
for name in ("broken", "dicee"):
    try:
        load_tools([name], ToolOptions())
    except ConfigError as error:
        print(error)
"""
    broken, unknown = run(program, installed).splitlines()
    assert sentence in broken
    assert "did you mean dice" in unknown
    assert "the plug-ins broken, dice" in unknown
