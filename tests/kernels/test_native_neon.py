"""The NEON level on a machine without ARM: cross-compiled by setup.py and run in QEMU.

`tests/native/against_portable.cpp` compares every kernel with the portable level. On ARM itself
`test_native_products.py` and `test_native_blocks.py` test the level with torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "src/ossia/kernels/native"
DRIVER = ROOT / "tests/native/against_portable.cpp"
CROSS = "aarch64-linux-gnu-"
QEMU = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
# Processors with and without the dot products of ARMv8.2.
WITH, WITHOUT = "max", "cortex-a72"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(sys.platform != "linux", reason="QEMU runs programs for Linux"),
    pytest.mark.skipif(
        shutil.which(f"{CROSS}g++") is None,
        reason="needs a compiler for ARM (Debian: g++-aarch64-linux-gnu)",
    ),
    pytest.mark.skipif(QEMU is None, reason="needs an emulator for ARM (Debian: qemu-user)"),
    pytest.mark.skipif(not (ROOT / "setup.py").is_file(), reason="needs the source tree"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparing program, built against a library that setup.py made for ARM."""
    folder = tmp_path_factory.mktemp("neon")
    environment = {
        **os.environ,
        "_PYTHON_HOST_PLATFORM": "linux-aarch64",
        "CC": f"{CROSS}gcc",
        "CXX": f"{CROSS}g++",
        "LDSHARED": f"{CROSS}gcc -shared",
        "LDCXXSHARED": f"{CROSS}g++ -shared",
        "CFLAGS": "",
        "LDFLAGS": "",
    }
    places = ("--build-lib", str(folder / "lib"), "--build-temp", str(folder / "temp"))
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", *places],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=200,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "without" not in built.stderr
    (library,) = (folder / "lib").rglob("_cpu.so")
    program = folder / "against_portable"
    link = (str(library), f"-Wl,-rpath,{library.parent}", "-pthread")
    subprocess.run(
        [f"{CROSS}g++", "-std=c++17", "-O1", f"-I{NATIVE}", str(DRIVER), *link, "-o", str(program)],
        check=True,
        timeout=100,
    )
    return program


def emulate(processor: str, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    assert QEMU is not None
    found = subprocess.run(
        [f"{CROSS}gcc", "-print-file-name=libc.so.6"], capture_output=True, text=True, check=True
    )
    system = Path(found.stdout.strip()).resolve().parents[1]  # where its lib folder is
    return subprocess.run(
        [QEMU, "-cpu", processor, "-L", str(system), str(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_every_kernel_agrees_with_the_portable_level(driver: Path) -> None:
    done = emulate(WITH, driver, "neon")
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 wrong" in done.stdout


def test_a_processor_without_dot_products_gets_the_portable_level(driver: Path) -> None:
    assert emulate(WITH, driver).stdout == "neon,portable\n"
    assert emulate(WITHOUT, driver).stdout == "portable\n"
