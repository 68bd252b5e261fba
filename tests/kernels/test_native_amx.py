"""The AMX products on any x86 processor with VNNI: tiles in plain C++ instead of instructions.

The real instructions are tested by `test_native_products.py` where the processor has them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ossia.kernels.native.library import LIBRARY_VARIABLE, status

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX belongs to x86"),
    pytest.mark.skipif("avx512-vnni" not in status().levels, reason="needs AVX-512 VNNI"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a compiler"),
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree"),
]


@pytest.mark.timeout(240)
def test_products_are_right_with_emulated_tiles(tmp_path: Path) -> None:
    environment = {**os.environ, "CPPFLAGS": "-DOSSIA_TILES_EMULATED"}
    places = ("--build-lib", str(tmp_path / "lib"), "--build-temp", str(tmp_path / "temp"))
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *places],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=200,
        stdout=subprocess.DEVNULL,
    )
    (library,) = (tmp_path / "lib").rglob("_cpu.so")
    tests = str(Path(__file__).with_name("test_native_products.py"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "amx", tests],
        cwd=ROOT,
        env={**os.environ, LIBRARY_VARIABLE: str(library)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout
