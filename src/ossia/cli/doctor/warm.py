"""`ossia doctor --warm`: compiles every kernel of a model ahead, so that no start has to."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ossia.cli.doctor.check import Check
from ossia.config import EngineConfig, ModelConfig


def warm(model: str) -> Iterator[Check]:
    """What was compiled or found in the caches, and how long it took.

    Only the geometry of the model matters; its weights need not be there.

    Raises:
        StartupError: a kernel does not compile here, or computes wrong numbers.
        CheckpointError: there is no such model.
    """
    from ossia.engine.device import choose_device, choose_dtype
    from ossia.engine.memory import GPU_BATCHED_TOKENS, GPU_MAX_SEQS
    from ossia.engine.start import choose_kernels
    from ossia.engine.warm_up import warm_up

    config = EngineConfig(model=model)
    geometry = _geometry(model)
    device = choose_device(config)
    dtype = choose_dtype(config, geometry, device)
    if device.type == "cpu":
        yield Check("warm", "ok", "nothing to compile: models run on the CPU here")
        return
    for folder in cache_folders():
        yield Check("kernel cache", "ok", f"{folder}, {_files(folder)} files")
    started = time.monotonic()
    kernels = choose_kernels(config, geometry, device, dtype)
    rows, tokens = GPU_MAX_SEQS, GPU_BATCHED_TOKENS[0]
    done = warm_up(kernels, geometry, device, dtype, max_rows=rows, max_tokens=tokens)
    for line in done.lines:
        yield Check("kernel", "ok", line)
    seconds = time.monotonic() - started
    files = sum(map(_files, cache_folders()))
    yield Check("warm", "ok", f"kernels for {model} are ready after {seconds:.1f} s, {files} files")


def cache_folders() -> tuple[Path, ...]:
    """Where compiled kernels are kept: Triton's folder, and that of kernels in CUDA C++."""
    from ossia.checkpoint.demo import cache_directory

    home = Path(os.environ.get("TRITON_HOME", Path.home()))
    triton = Path(os.environ.get("TRITON_CACHE_DIR", home / ".triton" / "cache"))
    return triton, cache_directory() / "kernels"


def _geometry(model: str) -> ModelConfig:
    from ossia.checkpoint.resolve import resolve_model

    return resolve_model(model, load_format="dummy").config


def _files(folder: Path) -> int:
    return sum(1 for path in folder.rglob("*") if path.is_file())
