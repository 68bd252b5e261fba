"""Where the model runs and in which precision, when the user leaves that open."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from ossia.checkpoint.parts import model_parts
from ossia.config import EngineConfig, ModelConfig
from ossia.errors import ConfigError

FLOAT32_DENSE_LIMIT = 1 << 30  # bytes
ONE_THREAD_BELOW = 16_000_000  # numbers multiplied with a token, in the layers
_MALLOC_TRIM_THRESHOLD, _MALLOC_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_KEPT_BYTES = 256 << 20


def choose_device(config: EngineConfig) -> torch.device:
    """The device asked for; `auto` takes a GPU if there is one.

    Raises:
        ConfigError: cuda was asked for and is not there.
    """
    if config.device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if config.device == "cuda":
        raise ConfigError("--device cuda needs an NVIDIA GPU that torch can see; use --device cpu.")
    return torch.device("cpu")


def choose_dtype(config: EngineConfig, model: ModelConfig, device: torch.device) -> torch.dtype:
    """The dtype asked for; `auto` is bfloat16 on a GPU.

    On a CPU `auto` is float32, which small models run faster and with repeatable results, unless
    the weights outside the experts would then take more than 1 GiB.
    """
    if config.dtype == "float32":
        return torch.float32
    if config.dtype == "bfloat16" or device.type != "cpu":
        return torch.bfloat16
    return torch.float32 if 4 * dense_values(model) <= FLOAT32_DENSE_LIMIT else torch.bfloat16


def dense_values(model: ModelConfig) -> int:
    """Numbers in the weights outside the experts' matrices."""
    experts = ("experts", "blocks", "scales")
    return sum(math.prod(part.shape) for part in model_parts(model) if part.kind not in experts)


def available_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device, by this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = int(psutil.virtual_memory().available)
    return min([free, *_cgroup_room(Path("/sys/fs/cgroup"))])


def _cgroup_room(root: Path) -> Iterable[int]:
    """What the container's limit leaves, if there is one (cgroup version 2, then 1)."""
    for limit, usage, stat in (
        ("memory.max", "memory.current", "memory.stat"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
        ),
    ):
        try:
            most, used = (int((root / name).read_text()) for name in (limit, usage))
            lines = (root / stat).read_text().splitlines()
        except (OSError, ValueError):  # no such version here, or the limit is "max"
            continue
        cached = sum(int(v) for k, v in map(str.split, lines) if k == "inactive_file")
        yield max(0, most - used + cached)


def choose_threads(config: EngineConfig, model: ModelConfig) -> int:
    """CPU threads of torch: as asked for, or 1 for a small model, whose operations are too short to
    be divided; else what torch would take, within the container's quota, which torch ignores."""
    if config.num_threads is not None:
        return config.num_threads
    if values_per_token(model) < ONE_THREAD_BELOW:
        return 1
    return min([torch.get_num_threads(), *_cgroup_cpus(Path("/sys/fs/cgroup"))])


def values_per_token(model: ModelConfig) -> int:
    """Numbers in the weights of the layers that one token is multiplied with."""
    share = {"blocks": 2 * model.experts_per_token / model.num_experts, "scales": 0}
    share["experts"] = model.experts_per_token / model.num_experts
    return int(
        sum(
            math.prod(part.shape) * share.get(part.kind, 1)
            for part in model_parts(model)
            if part.layer is not None
        )
    )


def _cgroup_cpus(root: Path) -> Iterable[int]:
    """The container's CPU quota in whole CPUs, if there is one (cgroup version 2, then 1)."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = map(int, " ".join((root / f).read_text() for f in files).split())
        except (OSError, ValueError):  # no such version here, or the quota is "max"
            continue
        if quota > 0:
            yield max(1, round(quota / period))


def keep_freed_memory() -> None:
    """Let malloc reuse big blocks instead of returning them to the system after each operation.

    A step on the CPU allocates and frees the same activations again and again; by default glibc
    maps and unmaps those above its threshold, and the page faults cost as much as the work.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MALLOC_MMAP_THRESHOLD, _KEPT_BYTES)
        mallopt(_MALLOC_TRIM_THRESHOLD, _KEPT_BYTES)
