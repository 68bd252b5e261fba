"""Whether the fused kernels for Hopper can run a model here, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.model.batch import LayerCache, PagedBatch

# q [tokens, heads, head_dim], cache, the step's pages, sinks [heads], scale, window -> like q
AttendPrefill = Callable[[Tensor, LayerCache, PagedBatch, Tensor, float, int | None], Tensor]

# model, device, sequences that decode in one step, tokens in the largest step -> what was made
# ready, a line for each
WarmUp = Callable[[ModelConfig, torch.device, int, int], Iterable[str]]

CAPABILITY = 9  # major: H100, H200, GH200
MOST_EXPERTS = 128


@dataclass(frozen=True, slots=True)
class HopperKernels:
    """What the fused blocks leave open."""

    attend_prefill: AttendPrefill | None  # other people's; None: ours
    max_rows: int  # sequences that decode in one step
    pdl: bool = True  # kernels start before the one ahead has ended


def unfit_reason(device: torch.device, dtype: torch.dtype, model: ModelConfig) -> str | None:
    """Why the fused kernels cannot run this model here; None if they can."""
    if device.type != "cuda":
        return "they need a CUDA GPU"
    if torch.cuda.get_device_capability(device)[0] != CAPABILITY:
        return "they need a Hopper GPU (H100, H200)"
    if dtype != torch.bfloat16:
        return f"they need bfloat16, not {str(dtype).removeprefix('torch.')}"
    if model.expert_format != "mxfp4":
        return "the experts are not in MXFP4; --quantization mxfp4 would pack them"
    return geometry_reason(model) or _compiler_reason()


def geometry_reason(model: ModelConfig) -> str | None:
    """Why the geometry does not fit the tiles; None if it does."""
    if model.hidden_size % 64 or model.intermediate_size % 64:
        return "hidden and intermediate size must be multiples of 64"
    if model.head_dim != 64 or model.num_heads != 8 * model.num_kv_heads:
        return "they are made for 8 query heads of 64 a key head"
    if model.num_experts not in (32, MOST_EXPERTS) or model.experts_per_token != 4:
        return "they are made for 4 of 32 or 128 experts"
    return None


def _compiler_reason() -> str | None:
    from ossia.kernels.cuda.compiler import CudaCompileError, nvrtc_version

    try:
        nvrtc_version()
    except CudaCompileError as error:
        return error.message.rstrip(".")
    return None
