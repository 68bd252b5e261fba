"""Builds the native CPU library where a C++ compiler exists; the rest is in pyproject.toml.

The library is plain C++17 with a C interface: no headers of Python or torch. Files are named after
what they need: `cpu_NAME.cpp` runs on every processor, `cpu_NAME_LEVEL.cpp` is compiled with the
flags of that level and only called where the processor has them (cpu_level.h). A level that the
compiler does not know is left out. Without a compiler everything else is installed all the same,
and Ossia says at its start what is missing.
"""

from __future__ import annotations

import platform
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, ExecError, PlatformError

FOLDER = Path("src/ossia/kernels/native")
COMMON = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-pthread",
]
# -ffp-contract decides whether a * b + c is one instruction; results are to be the same whatever
# the level, so files ask for it by name where they want it.
COMMON += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# gcc 12 calls the undefined vectors in its own headers uninitialised.
COMMON += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq"]
_VNNI = [*_AVX512, "-mavx512vnni", "-mavx512vbmi", "-mavx512bf16"]
LEVELS = {  # by processor; a level comes after those whose flags it has too
    "x86_64": {
        "avx2": _AVX2,
        "avxvnni": [*_AVX2, "-mavxvnni"],
        "avx512": _AVX512,
        "vnni": _VNNI,
        "amx": [*_VNNI, "-mamx-tile", "-mamx-bf16"],
    },
    # Compilers for Apple's processors assume what all of those have, dot products included; a
    # flag for ARM would stop a build for both kinds of Macs at once.
    "aarch64": {"neon": [] if sys.platform == "darwin" else ["-march=armv8.2-a+dotprod"]},
}
_NAMES = {"amd64": "x86_64", "arm64": "aarch64"}


def processor() -> str:
    """What to build for: that of the Python in use, or the target of a cross build."""
    name = sysconfig.get_platform().rpartition("-")[2]  # linux-aarch64, macosx-14.0-arm64
    if name == "universal2":
        name = platform.machine()
    return _NAMES.get(name.lower(), name)


class BuildLibrary(build_ext):
    """One shared library out of all cpu_*.cpp, each with the flags of its level."""

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        objects: list[str] = []
        defines = []
        failed: list[list[str]] = []
        for level, flags in LEVELS.get(processor(), {}).items():
            if any(set(other) <= set(flags) for other in failed):
                continue  # it builds on one that the compiler does not know
            try:
                objects += self._compile(FOLDER.glob(f"cpu_*_{level}.cpp"), flags)
            except CCompilerError as error:
                print(f"CPU library without {level}: {error}", file=sys.stderr)
                failed.append(flags)
                continue
            defines.append(f"-DOSSIA_WITH_{level.upper()}")
        every = {level for levels in LEVELS.values() for level in levels}
        common = (
            file for file in FOLDER.glob("cpu_*.cpp") if file.stem.rpartition("_")[2] not in every
        )
        objects += self._compile(common, defines)
        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        self.compiler.link_shared_object(
            objects, str(output), extra_postargs=["-pthread"], target_lang="c++"
        )

    def run(self) -> None:
        try:
            super().run()
        except (CCompilerError, ExecError, PlatformError, OSError) as error:
            # No compiler at all; `optional` covers only what goes wrong later.
            print(f"Installing without the native CPU library: {error}", file=sys.stderr)

    def _compile(self, files: object, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            sorted(map(str, files)),
            output_dir=self.build_temp,
            extra_postargs=[*COMMON, *flags],
            depends=sorted(map(str, FOLDER.glob("*.h"))),
        )


setup(
    ext_modules=[
        Extension(
            "ossia.kernels.native._cpu",
            sources=sorted(map(str, FOLDER.glob("cpu_*.cpp"))),
            depends=sorted(map(str, FOLDER.glob("*.h"))),
            language="c++",
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary},
)
