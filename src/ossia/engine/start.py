"""Builds an engine from its configuration: find, plan, load, test. Says what it is doing.

On a GPU kernels are compiled and tested in a thread beside the loading: the one waits for compilers
and the disk, the other for memory and the link to the GPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psutil
import torch

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.native_load import load_native, native_weight_bytes
from ossia.checkpoint.parts import Place, model_parts
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.config import ARCHITECTURE, EngineConfig, ModelConfig
from ossia.engine.beside import Beside
from ossia.engine.core import EngineCore
from ossia.engine.device import (
    available_memory,
    choose_device,
    choose_dtype,
    choose_threads,
    keep_freed_memory,
)
from ossia.engine.grammars import Grammars
from ossia.engine.mask_worker import MaskWorker
from ossia.engine.masks import MaskCache
from ossia.engine.memory import GPU_MAX_SEQS, MemoryPlan, plan_memory
from ossia.engine.messages import EngineInfo
from ossia.engine.runner import Runner
from ossia.engine.scheduler import Scheduler, SchedulerConfig
from ossia.engine.step_runner import StepRunner
from ossia.engine.warm_up import WarmedUp, warm_up
from ossia.kernels.moe.prepare import unpacked_bytes
from ossia.kernels.select import Kernels, select_kernels
from ossia.model import model_class
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.model.native_weights import NativeWeights
from ossia.model.weights import ModelWeights

if TYPE_CHECKING:
    from llguidance import LLTokenizer

Progress = Callable[[str], None]


def start_engine(
    config: EngineConfig,
    progress: Progress = lambda text: None,
    ll_tokenizer: Callable[[], LLTokenizer] | None = None,
) -> EngineCore:
    """An engine that is ready to step.

    `ll_tokenizer` makes the vocabulary for constraints when it is needed; by default it is made of
    the gpt-oss vocabulary.

    Raises:
        StartupError: it cannot run as configured here; says what to change.
    """
    if config.device != "cpu" and torch.version.cuda is not None:
        progress("Looking for a GPU.")
    device = choose_device(config)
    if device.type == "cpu":
        keep_freed_memory()
    source = resolve_model(config.model, load_format=config.load_format, progress=progress)
    model_config = _as_loaded(source, config)
    torch.set_num_threads(choose_threads(config, model_config))
    dtype = choose_dtype(config, model_config, device)
    kernels = choose_kernels(config, model_config, device, dtype)
    if kernels.native is not None:
        # What torch still does is short, and its threads would spin where the library's work.
        torch.set_num_threads(1)
    plan = _plan(model_config, config, device, dtype, kernels)
    for line in (*plan.lines(), *kernels.reasons):
        progress(line)
    weights = _load_and_warm_up(source, config, kernels, plan, device, dtype, progress)
    model = model_class(ARCHITECTURE)(weights, kernels, device)
    # The sampler of a GPU takes the bits of a mask, and keeps a table of them there.
    masks = MaskCache()
    runner = _runner(model, plan, MaskWorker(masks), kernels, device)
    scheduler = Scheduler(
        SchedulerConfig(
            max_num_seqs=plan.max_num_seqs,
            max_num_batched_tokens=plan.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            eos_token_ids=model_config.eos_token_ids,
        ),
        plan.cache,
    )
    info = EngineInfo(
        architecture=ARCHITECTURE,
        model=source.name,
        device=_device_name(device),
        dtype=str(dtype).removeprefix("torch."),
        quantization="mxfp4" if model_config.expert_format == "mxfp4" else None,
        attention_backend=kernels.attention_backend,
        vocab_size=model_config.vocab_size,
        max_model_len=plan.max_model_len,
        max_num_seqs=plan.max_num_seqs,
        eos_token_ids=list(model_config.eos_token_ids),
        memory_plan=plan.lines(),
    )
    return EngineCore(scheduler, runner, Grammars(masks, ll_tokenizer), info, config.seed)


def _runner(
    model: GptOssForCausalLM,
    plan: MemoryPlan,
    masks: MaskWorker,
    kernels: Kernels,
    device: torch.device,
) -> StepRunner[Any]:
    if device.type == "cpu":
        return Runner(model, plan.cache, masks, device=device)
    from ossia.engine.gpu_runner import GpuRunner

    return GpuRunner(
        model,
        plan.cache,
        masks,
        device=device,
        max_seqs=plan.max_num_seqs,
        max_model_len=plan.max_model_len,
        capturable=kernels.capturable,
        prompts_capturable=kernels.prompts_capturable,
    )


def _as_loaded(source: ModelSource, config: EngineConfig) -> ModelConfig:
    if config.quantization == "mxfp4":
        return replace(source.config, expert_format="mxfp4")
    return source.config


def choose_kernels(
    config: EngineConfig, model: ModelConfig, device: torch.device, dtype: torch.dtype
) -> Kernels:
    """The kernels that an engine of this configuration runs.

    Raises:
        ConfigError: the attention backend asked for cannot work here.
    """
    max_rows = config.max_num_seqs or GPU_MAX_SEQS
    return select_kernels(
        device,
        dtype,
        config.attention_backend,
        model,
        max_rows,
        cpu_dense=config.cpu_dense,
        cpu_threads=choose_threads(config, model),
    )


def _load_and_warm_up(
    source: ModelSource,
    config: EngineConfig,
    kernels: Kernels,
    plan: MemoryPlan,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress,
) -> ModelWeights | NativeWeights:
    """The weights; on return the kernels are ready and tested too."""

    def prepare() -> WarmedUp:
        return warm_up(
            kernels,
            _as_loaded(source, config),
            device,
            dtype,
            max_rows=plan.max_num_seqs,
            max_tokens=plan.max_num_batched_tokens,
        )

    if device.type == "cpu":
        prepare()
        warming = None
    else:
        warming = Beside(prepare, "warm-up")
    started = time.monotonic()
    weights: ModelWeights | NativeWeights
    if kernels.native is not None:
        weights = load_native(
            source,
            kernels.native,
            dtype=dtype,
            progress=progress,
            quantization=config.quantization,
            seed=config.seed,
        )
    else:
        weights = load_weights(
            source,
            dtype=dtype,
            device=device,
            progress=progress,
            quantization=config.quantization,
            seed=config.seed,
            place=_placement(kernels),
        )
    progress(f"Loaded {source.name} in {time.monotonic() - started:.1f} s.")
    if warming is not None:
        # Told from here: a socket belongs to one thread.
        warmed = warming.result()
        progress(f"Kernels were ready after {warmed.seconds:.1f} s.")
    return weights


def _is_fused(kernels: Kernels) -> bool:
    return kernels.hopper is not None


def _placement(kernels: Kernels) -> Place | None:
    """How the experts of a layer are put in order on the device, if the kernels want an order."""
    if not _is_fused(kernels):
        return None
    from ossia.kernels.moe.hopper_layout import to_hopper

    return lambda layer, experts: to_hopper(experts)


def _plan(
    model: ModelConfig,
    config: EngineConfig,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Kernels,
) -> MemoryPlan:
    if device.type == "cuda":
        total = int(torch.cuda.mem_get_info(device)[1])
    else:
        total = int(psutil.virtual_memory().total)
    return plan_memory(
        model,
        config,
        device=device.type,
        itemsize=dtype.itemsize,
        weight_bytes=_weight_bytes(model, dtype, kernels),
        available_bytes=available_memory(device),
        total_bytes=total,
        fused=_is_fused(kernels),
    )


def _weight_bytes(model: ModelConfig, dtype: torch.dtype, kernels: Kernels) -> int:
    if kernels.native is not None:
        return native_weight_bytes(model, kernels.native.dense, dtype.itemsize)
    as_stored = sum(
        math.prod(part.shape) * (1 if part.kind in ("blocks", "scales") else dtype.itemsize)
        for part in model_parts(model)
    )
    return as_stored if _is_fused(kernels) else as_stored + unpacked_bytes(model, dtype)


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else torch.cuda.get_device_name(device)
