"""Which levels of the CPU library are built where the compiler does not know all of their flags."""

from __future__ import annotations

import platform
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools
from setuptools.errors import CompileError

SETUP = Path(__file__).parents[2] / "setup.py"

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels of x86"),
    pytest.mark.skipif(not SETUP.is_file(), reason="needs the source tree"),
]


def built(unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The levels, in lower case, that the library would be told it has."""
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(SETUP.parent)
    build = runpy.run_path(str(SETUP))["BuildLibrary"]
    command: Any = build(setuptools.Distribution())
    command.compiler = SimpleNamespace(link_shared_object=lambda *a, **k: None)
    command.get_ext_fullpath = lambda name: str(tmp_path / "library.so")
    defines: list[str] = []

    def compile_files(files: object, flags: list[str]) -> list[str]:
        if unknown in flags:
            raise CompileError(f"unrecognized option {unknown}")
        defines.extend(flag for flag in flags if flag.startswith("-D"))
        return []

    command._compile = compile_files
    command.build_extension(SimpleNamespace(name="library"))
    return {define.removeprefix("-DOSSIA_WITH_").lower() for define in defines}


@pytest.mark.parametrize(
    ("unknown", "levels"),
    [
        ("-mno-such-flag", {"avx2", "avxvnni", "avx512", "vnni", "amx"}),
        ("-mamx-bf16", {"avx2", "avxvnni", "avx512", "vnni"}),
        ("-mavxvnni", {"avx2", "avx512", "vnni", "amx"}),
        ("-mavx512bw", {"avx2", "avxvnni"}),
        ("-mavx2", set()),
    ],
)
def test_a_level_takes_those_with_it_that_build_on_it(
    unknown: str, levels: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert built(unknown, tmp_path, monkeypatch) == levels
