"""What this machine has: Python, torch, processor, memory, GPU, disk, port."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from ossia import __version__
from ossia.cli.doctor.check import Check

_MIN_PYTHON = (3, 11)
_MIN_DISK = 2**30  # bytes; the unpacked demo model takes about a third of it
_MIN_MEMORY = 2 * 2**30  # bytes; what the demo model needs with room to spare
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16"),
    *("asimd", "bf16", "sve"),
)


def python() -> Iterator[Check]:
    """The interpreter, and this package."""
    found = f"{platform.python_version()} ({sys.executable}), ossia {__version__}"
    supported = sys.version_info >= _MIN_PYTHON
    wanted = ".".join(map(str, _MIN_PYTHON))
    yield Check("Python", "ok" if supported else "fail", found + f", needs {wanted} or later")


def torch() -> Iterator[Check]:
    """The version of torch, against what this package asks for."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    detail = f"{torch.__version__} ({build})"
    try:
        wanted = next(filter(re.compile(r"torch\b").match, requires("ossia") or ()))
    except (PackageNotFoundError, StopIteration):
        yield Check("torch", "warn", f"{detail}; ossia itself is not installed")
        return
    fits = satisfies(version("torch"), wanted)
    yield Check("torch", "ok" if fits else "fail", f"{detail}, needs {wanted}")


def satisfies(found: str, requirement: str) -> bool:
    """Whether a version's first two numbers meet the bounds in `requirement` (>= and < only)."""
    release = _release(found)
    bounds = re.findall(r"(>=|<)(\d+(?:\.\d+)*)", requirement)
    return all(
        release >= _release(bound) if sign == ">=" else release < _release(bound)
        for sign, bound in bounds
    )


def _release(text: str) -> tuple[int, int]:
    major, minor = (*re.findall(r"\d+", text), "0", "0")[:2]
    return int(major), int(minor)


def processor() -> Iterator[Check]:
    """Its name, cores and vector instructions."""
    import torch

    model, flags = _cpu_info()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    features = [name for name in _FEATURES if name in flags]
    detail = f"{model}, {cores} cores, {' '.join(features) or platform.machine()}"
    capability = torch.backends.cpu.get_cpu_capability()
    slow = capability in ("DEFAULT", "NO AVX")
    note = f"{detail}; torch uses {capability}" + (", expect slow answers" if slow else "")
    yield Check("CPU", "warn" if slow else "ok", note)


def memory() -> Iterator[Check]:
    """What the engine could take now, the limit of a container included."""
    import psutil
    import torch

    from ossia.engine.device import available_memory

    available = available_memory(torch.device("cpu"))
    detail = f"{gib(available)} available of {gib(psutil.virtual_memory().total)}"
    if available < _MIN_MEMORY:
        yield Check("memory", "warn", f"{detail}; the demo model wants {gib(_MIN_MEMORY)}")
    else:
        yield Check("memory", "ok", detail)


def gpu() -> Iterator[Check]:
    """Every GPU that torch can use, or why it uses none."""
    import torch

    if not torch.cuda.is_available():
        driver = _driver_version()
        if driver is None:
            yield Check("GPU", "ok", "none; models run on the CPU")
        elif torch.version.cuda is None:
            yield Check(
                "GPU",
                "warn",
                f"driver {driver} found, but this torch is a CPU build; "
                "install a CUDA build of torch to use the GPU",
            )
        else:
            yield Check(
                "GPU",
                "warn",
                f"driver {driver} does not work with torch for CUDA {torch.version.cuda}; "
                "update the driver or install torch for an older CUDA",
            )
        return
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        yield Check(
            f"GPU {index}",
            "ok",
            f"{found.name}, compute {found.major}.{found.minor}, {gib(free)} free of {gib(total)}, "
            f"driver {_driver_version() or 'unknown'}, CUDA {torch.version.cuda}",
        )


def disk() -> Iterator[Check]:
    """Space where the demo model is unpacked, and where downloads of the hub go."""
    from huggingface_hub.constants import HF_HUB_CACHE

    from ossia.checkpoint.demo import cache_directory

    for name, folder in (
        ("cache", cache_directory()),
        ("hub cache", Path(HF_HUB_CACHE)),
    ):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if not os.access(existing, os.W_OK):
            yield Check(name, "warn", f"{folder} cannot be written")
        elif free < _MIN_DISK:
            yield Check(name, "warn", f"{folder}, only {gib(free)} free")
        else:
            yield Check(name, "ok", f"{folder}, {gib(free)} free")


def port(number: int) -> Iterator[Check]:
    """Whether `ossia serve` could listen there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            detail = f"127.0.0.1:{number} is taken ({error.strerror}); use serve --port"
            yield Check("port", "warn", detail)
        else:
            yield Check("port", "ok", f"127.0.0.1:{number} is free")


def gib(size: int) -> str:
    """A size in bytes as GiB."""
    return f"{size / 2**30:.1f} GiB"


def _cpu_info() -> tuple[str, set[str]]:
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return model, flags
    for line in lines:
        key, _, value = line.partition(":")
        match key.strip():
            case "model name":
                model = value.strip()
            case "flags" | "Features":
                flags.update(value.split())
    return model, flags


def _driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return output.stdout.splitlines()[0].strip()
    except (OSError, subprocess.SubprocessError, IndexError):
        return "of unknown version" if _DRIVER_FILE.exists() else None
