"""Where no sandbox can be made, the server says so before it starts, and what to change."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ossia.errors import ConfigError
from ossia.tools.options import ToolOptions
from ossia.tools.python import layout, probe, python_tool
from ossia.tools.python.probe import explain, require_sandbox


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.platform, "system", lambda: "Darwin")
    with pytest.raises(ConfigError, match=r"only Linux .* leave the tool out on Darwin"):
        python_tool(ToolOptions())


def test_an_old_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.platform, "system", lambda: "Linux")
    monkeypatch.setattr(probe.platform, "release", lambda: "5.4.0-216-generic")
    with pytest.raises(ConfigError, match=r"Linux 5\.14 or newer and this is 5\.4\.0"):
        python_tool(ToolOptions())


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"1 MB is too small .* 256 MB or more"):
        python_tool(ToolOptions(python_memory=1 << 20))


def test_a_timeout_has_to_be_a_time() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        python_tool(ToolOptions(python_timeout=0))


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", 1, "unprivileged_userns=0"),
        ("kernel/unprivileged_userns_clone", 0, "unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", 0, "max_user_namespaces=15000"),
        ("", 0, "--security-opt seccomp=unconfined"),
    ],
)
def test_the_setting_at_fault_is_named(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: int, remedy: str
) -> None:
    monkeypatch.setattr(probe, "_setting", lambda name: value if name == setting else None)
    sentence = explain("namespaces", "Operation not permitted")
    assert remedy in sentence
    assert "leave the tool out" in sentence
    assert "\n" not in sentence


def test_an_interpreter_that_does_not_start_inside_is_refused(notebook: Any) -> None:
    settings = layout.settings(512 << 20)
    broken = dataclasses.replace(settings, command=["/usr/bin/no-such-python"])
    with pytest.raises(ConfigError, match="interpreter"):
        require_sandbox(broken)


def test_a_folder_that_is_not_there_is_named(notebook: Any) -> None:
    settings = layout.settings(512 << 20)
    view = dataclasses.replace(settings.view, shown={"/opt/x": "/no/such/folder"})
    with pytest.raises(ConfigError, match="/no/such/folder: No such file"):
        require_sandbox(dataclasses.replace(settings, view=view))


AS_ANOTHER = """
import asyncio, sys, types
# The package without what its own __init__ imports, which the system's Python does not have.
package = types.ModuleType("ossia")
package.__path__ = [sys.argv[1] + "/ossia"]
sys.modules["ossia"] = package
from ossia.tools.options import ToolOptions
from ossia.tools.python import python_tool
from ossia.tools.tool import CallContext

async def main():
    tool = python_tool(ToolOptions())
    users = "open('/proc/self/uid_map').read().split()[1:]"
    code = f"import os; os.getuid(), {users}, os.listdir('/tmp')"
    print((await tool.call({"code": code}, CallContext("a"))).text, end="")
    await tool.close()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("change", "outside"),
    [
        (["--reuid=4321", "--regid=4321", "--clear-groups"], 4321),
        (["--bounding-set=-sys_admin"], 65534),
    ],
    ids=["a normal user", "root of a container"],
)
def test_the_server_need_not_be_root(notebook: Any, change: list[str], outside: int) -> None:
    python, source = "/usr/bin/python3", str(Path(layout.__file__).parents[3])
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("there is no setpriv")
    readable = "import sys, ctypes; assert sys.version_info >= (3, 11); open(sys.argv[1])"
    with_user = [setpriv, *change, python, "-I", "-c"]
    tried = subprocess.run([*with_user, readable, layout.__file__], check=False)
    if os.geteuid() or tried.returncode:
        pytest.skip("needs root, and a Python that other users can run")
    done = subprocess.run(
        [*with_user, AS_ANOTHER, source], capture_output=True, text=True, timeout=60, check=False
    )
    if "ConfigError" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.stdout == f"(65534, ['{outside}', '1'], [])\n"
