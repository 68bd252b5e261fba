"""Which levels of the CPU library are built where the compiler does not know all of their flags."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Builds with a compiler that only looks at flags, and prints what the library would be told.
# In a process of its own, because setuptools replaces a module of the standard library.
BUILD = """
import runpy, sys
from types import SimpleNamespace
import setuptools
from setuptools.errors import CompileError

setuptools.setup = lambda **options: None
command = runpy.run_path("setup.py")["BuildLibrary"](setuptools.Distribution())
command.compiler = SimpleNamespace(link_shared_object=lambda *files, **options: None)
command.get_ext_fullpath = lambda name: sys.argv[2]

def compile_files(files, flags):
    if sys.argv[1] in flags:
        raise CompileError("unrecognized option")
    print(*(flag for flag in flags if flag.startswith("-D")))
    return []

command._compile = compile_files
command.build_extension(SimpleNamespace(name="library"))
"""

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the levels of x86"),
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree"),
    pytest.mark.skipif(importlib.util.find_spec("setuptools") is None, reason="needs setuptools"),
]


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
    unknown: str, levels: set[str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, unknown, str(tmp_path / "library.so")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) == {f"-DOSSIA_WITH_{level.upper()}" for level in levels}
