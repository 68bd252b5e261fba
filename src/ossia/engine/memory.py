"""The memory plan: what fits, by arithmetic on the geometry, before anything is allocated.

A page holds `page_size` positions of every layer of its kind:
    page bytes = layers of the kind * 2 (keys, values) * kv_heads * head_dim * itemsize * page_size
The full pool has pages for whole sequences. The window pool has, for each sequence, the pages a
window reaches plus the one being written; pages for the prompt tokens of one step; and, with
prefix caching, one kept window tail for each `TAIL_INTERVAL` tokens of the full pool.

What a step needs is in `step_memory.py`. On a GPU the pools take all that is left; where that is
little, steps are made smaller until the longest sequence fits.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

from ossia.config import EngineConfig, ModelConfig
from ossia.engine.kv_cache import CacheConfig
from ossia.engine.step_memory import cpu_step_bytes, gpu_memory
from ossia.errors import ConfigError

GIB = 1 << 30
TAIL_INTERVAL = 512  # tokens
CPU_KV_BYTES = 4 * GIB
CPU_KV_SHARE = 0.25  # of the memory that the weights leave
CPU_KV_LEAST = GIB // 4  # even if they leave none: mapped weights can be read again from disk
CPU_MAX_SEQS, GPU_MAX_SEQS = 32, 256
CPU_BATCHED_TOKENS = 512
GPU_BATCHED_TOKENS = (8192, 4096, 2048)  # the first that leaves room for the longest sequence
GPU_RESERVE = GIB * 3 // 4  # code of kernels and libraries, fragmentation


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Sizes of everything that is allocated for the life of the engine."""

    cache: CacheConfig
    max_model_len: int  # tokens
    max_num_seqs: int
    max_num_batched_tokens: int
    weight_bytes: int
    activation_bytes: int  # estimate of the peak within a step
    fixed_bytes: int  # estimate of graphs, tables and workspaces; 0 on the CPU
    full_page_bytes: int
    window_page_bytes: int
    available_bytes: int  # before the weights are loaded
    device: str

    @property
    def kv_bytes(self) -> int:
        """Of both pools."""
        return (
            self.cache.num_full_pages * self.full_page_bytes
            + self.cache.num_window_pages * self.window_page_bytes
        )

    def lines(self) -> list[str]:
        """The plan for a person."""
        page = self.cache.page_size
        full, window = self.cache.num_full_pages, self.cache.num_window_pages
        needed = self.weight_bytes + self.kv_bytes + self.activation_bytes + self.fixed_bytes
        lines = [
            f"Memory on {self.device}: {_gib(self.available_bytes)} available.",
            f"  weights                {_gib(self.weight_bytes):>10}",
            f"  full-attention cache   {_gib(full * self.full_page_bytes):>10}"
            f"  {full} pages of {page} tokens",
            f"  sliding-window cache   {_gib(window * self.window_page_bytes):>10}"
            f"  {window} pages of {page} tokens",
            f"  activations, at most   {_gib(self.activation_bytes):>10}"
            f"  in steps of {self.max_num_batched_tokens} tokens",
        ]
        if self.fixed_bytes:
            lines.append(f"  graphs and tables      {_gib(self.fixed_bytes):>10}")
        lines.append(
            f"Up to {self.max_num_seqs} sequences at once, {self.max_model_len} tokens each at "
            f"most, {(full - 1) * page} tokens together."
        )
        if needed > self.available_bytes:
            lines.append(
                f"Warning: {_gib(needed)} are needed and {_gib(self.available_bytes)} are "
                "available; it will be slow, or the system may end it. Use a smaller model or free "
                "memory."
            )
        return lines


def plan_memory(
    model: ModelConfig,
    config: EngineConfig,
    *,
    device: str,
    itemsize: int,
    weight_bytes: int,
    available_bytes: int,
    total_bytes: int,
    fused: bool = False,
) -> MemoryPlan:
    """Divide the memory.

    Args:
        model: the geometry.
        config: what the user fixed; the rest is chosen.
        device: "cpu" or "cuda".
        itemsize: bytes of a number in activations and cache.
        weight_bytes: of the loaded weights.
        available_bytes: free on the device now.
        total_bytes: of the device; `gpu_memory_utilization` is a share of it.
        fused: whether the network runs in fused kernels, which need less between them.

    Raises:
        ConfigError: it does not fit; names what would and the option to change.
    """
    if config.max_model_len is not None and config.max_model_len > model.max_context:
        raise ConfigError(
            f"--max-model-len {config.max_model_len} is more than the model's context of "
            f"{model.max_context} tokens; lower it."
        )
    gpu = device != "cpu"
    seqs = config.max_num_seqs or (GPU_MAX_SEQS if gpu else CPU_MAX_SEQS)
    place = _Place(device, itemsize, weight_bytes, available_bytes, total_bytes, fused)
    if config.max_num_batched_tokens is not None or not gpu:
        batched = config.max_num_batched_tokens or max(seqs, CPU_BATCHED_TOKENS)
        return _plan(model, config, place, seqs, batched)
    *larger, smallest = (max(seqs, tokens) for tokens in GPU_BATCHED_TOKENS)
    for batched in larger:
        with contextlib.suppress(ConfigError):
            plan = _plan(model, config, place, seqs, batched)
            if plan.max_model_len == (config.max_model_len or model.max_context):
                return plan
    return _plan(model, config, place, seqs, smallest)


@dataclass(frozen=True, slots=True)
class _Place:
    """The device, and what is known of it."""

    device: str
    itemsize: int
    weight_bytes: int
    available_bytes: int
    total_bytes: int
    fused: bool


def _plan(
    model: ModelConfig, config: EngineConfig, place: _Place, seqs: int, batched: int
) -> MemoryPlan:
    gpu, itemsize = place.device != "cpu", place.itemsize
    available = place.available_bytes
    wanted = config.max_model_len or model.max_context
    if gpu:
        needs = gpu_memory(
            model,
            tokens=batched,
            rows=seqs,
            max_model_len=wanted,
            page_size=config.page_size,
            itemsize=itemsize,
            fused=place.fused,
        )
        activations, fixed = needs.step, needs.graphs + needs.tables
    else:
        activations, fixed = cpu_step_bytes(model, batched, seqs, itemsize), 0
    budget = _kv_budget(
        config,
        gpu=gpu,
        room=available - place.weight_bytes,
        gpu_limit=available - int(place.total_bytes * (1.0 - config.gpu_memory_utilization)),
        taken=place.weight_bytes + activations + fixed,
    )
    # On a GPU the next step is scheduled while one runs, so two chunks of prompts hold pages.
    in_flight = (2 if gpu else 1) * batched
    sizes = _PoolSizes.of(model, config, in_flight=in_flight, itemsize=itemsize)
    if config.max_num_seqs is None:
        # Windows of many sequences must not take the memory of one long one.
        least = sizes.full_pages_of(wanted if config.max_model_len else sizes.page_size)
        seqs = sizes.largest_seqs(seqs, budget, least)
    fits = sizes.largest_context(seqs, budget)
    if fits < (config.max_model_len or sizes.page_size):
        raise _too_small(config, sizes, seqs, budget, wanted, fits)
    length = min(wanted, fits)
    full = min(sizes.full_pages(seqs, budget), seqs * sizes.full_pages_of(length) + 1)
    return MemoryPlan(
        cache=CacheConfig(
            page_size=sizes.page_size,
            num_full_pages=full,
            num_window_pages=sizes.window_pages(seqs, full),
            sliding_window=model.sliding_window,
            enable_prefix_caching=config.enable_prefix_caching,
            tail_interval=TAIL_INTERVAL,
        ),
        max_model_len=length,
        max_num_seqs=seqs,
        max_num_batched_tokens=batched,
        weight_bytes=place.weight_bytes,
        activation_bytes=activations,
        fixed_bytes=fixed,
        full_page_bytes=sizes.full_bytes,
        window_page_bytes=sizes.window_bytes,
        available_bytes=available,
        device=place.device,
    )


@dataclass(frozen=True, slots=True)
class _PoolSizes:
    """How pages of the two pools depend on sequences and on each other."""

    page_size: int  # tokens
    full_bytes: int  # of a page
    window_bytes: int  # of a page
    reach: int  # window pages before the one being written
    chunk_pages: int  # window pages for the prompt tokens that are in flight
    tail_ratio: float  # window pages kept as tails, for each full page

    @classmethod
    def of(
        cls, model: ModelConfig, config: EngineConfig, *, in_flight: int, itemsize: int
    ) -> _PoolSizes:
        page = config.page_size
        layer = 2 * model.num_kv_heads * model.head_dim * itemsize * page
        reach = -(-(model.sliding_window - 1) // page)
        tails = reach / max(1, TAIL_INTERVAL // page) if config.enable_prefix_caching else 0.0
        return cls(
            page_size=page,
            full_bytes=len(model.full_layers) * layer,
            window_bytes=len(model.window_layers) * layer,
            reach=reach,
            chunk_pages=-(-in_flight // page),
            tail_ratio=tails,
        )

    def full_pages_of(self, tokens: int) -> int:
        return -(-tokens // self.page_size)

    def window_pages(self, seqs: int, full: int) -> int:
        # Page 0 is scratch, and the prompts of one step may each leave a page half full.
        running = 1 + seqs * (self.reach + 2) + self.chunk_pages
        return running + math.ceil(full * self.tail_ratio)

    def full_pages(self, seqs: int, budget: int) -> int:
        """The most full pages, page 0 included, so that both pools fit into the budget."""
        left = budget - self.window_bytes * (self.window_pages(seqs, 0) + 1)
        per_page = self.full_bytes + self.window_bytes * self.tail_ratio
        if not per_page:
            return 0 if left < 0 else 1 << 30
        return max(0, int(left / per_page))

    def largest_context(self, seqs: int, budget: int) -> int:
        return max(0, self.full_pages(seqs, budget) - 1) * self.page_size

    def largest_seqs(self, seqs: int, budget: int, full: int) -> int:
        """The most sequences, up to `seqs`, with windows in half of the budget at most, and with
        `full` pages left."""
        while seqs > 1 and (
            self.window_bytes * self.window_pages(seqs, 0) > budget // 2
            or self.full_pages(seqs, budget) <= full
        ):
            seqs //= 2
        return seqs

    def budget_for(self, seqs: int, tokens: int) -> int:
        """Bytes of both pools with one sequence of this many tokens."""
        full = self.full_pages_of(tokens) + 2
        return full * self.full_bytes + (self.window_pages(seqs, full) + 2) * self.window_bytes


def _kv_budget(config: EngineConfig, *, gpu: bool, room: int, gpu_limit: int, taken: int) -> int:
    if config.kv_cache_memory is not None:
        return config.kv_cache_memory
    if not gpu:
        return min(CPU_KV_BYTES, max(CPU_KV_LEAST, int(room * CPU_KV_SHARE)))
    budget = gpu_limit - taken - GPU_RESERVE
    if budget <= 0:
        raise ConfigError(
            f"The model needs {_gib(taken + GPU_RESERVE)} of GPU memory and {_gib(gpu_limit)} are "
            "free within --gpu-memory-utilization; free memory on the GPU, raise "
            "--gpu-memory-utilization or use a smaller model."
        )
    return budget


def _too_small(
    config: EngineConfig, sizes: _PoolSizes, seqs: int, budget: int, wanted: int, fits: int
) -> ConfigError:
    enough = sizes.budget_for(seqs, config.max_model_len or sizes.page_size)
    if fits < sizes.page_size:
        return ConfigError(
            f"A KV cache of {_gib(budget)} is too small for {seqs} sequences; raise "
            f"--kv-cache-memory to {enough} bytes or more, or lower --max-num-seqs."
        )
    return ConfigError(
        f"--max-model-len {wanted} needs a KV cache of {_gib(enough)} and {_gib(budget)} are "
        f"planned, enough for {fits} tokens; lower --max-model-len to {fits} or raise "
        f"--kv-cache-memory to {enough}."
    )


def _gib(size: int) -> str:
    if abs(size) < GIB // 10:
        return f"{size / (1 << 20):.1f} MiB"
    return f"{size / GIB:.2f} GiB"
