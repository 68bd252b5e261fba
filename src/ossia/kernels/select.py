"""Chooses, once at start-up, which implementation of each operation the network runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.errors import ConfigError
from ossia.kernels.attention import blocked
from ossia.kernels.attention.interface import PrepareAttention
from ossia.kernels.linear import cpu as cpu_linear
from ossia.kernels.linear import reference as plain_linear
from ossia.kernels.lm_head import cpu as cpu_lm_head
from ossia.kernels.lm_head import reference as plain_lm_head
from ossia.kernels.lm_head.reference import Linear, Logits
from ossia.kernels.moe import cpu as cpu_moe
from ossia.kernels.moe import reference as plain_moe
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.weights import ExpertWeights

BACKENDS = ("auto", "TRITON", "FLASH_ATTN_3", "TORCH")


@dataclass(frozen=True, slots=True)
class Kernels:
    """The operations of the network. What each means: `reference.py` in the folder of its name."""

    attention_backend: str  # TRITON or TORCH
    # Whether a token's results have the same bits whatever else is in the step.
    batch_invariant: bool
    linear: Linear
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    prepare_attention: PrepareAttention
    route: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    run_experts: Callable[[Tensor, Tensor, Tensor, ExpertWeights, float, float], Tensor]
    prepare_lm_head: Callable[[Tensor, Linear], Logits]


def select_kernels(
    device: torch.device, dtype: torch.dtype, attention_backend: str = "auto"
) -> Kernels:
    """The fastest kernels that work here.

    Args:
        device: where the model runs.
        dtype: of weights and activations.
        attention_backend: auto, TRITON, FLASH_ATTN_3 or TORCH.

    Raises:
        ConfigError: a choice that cannot work here; the sentence names what would.
    """
    backend, prepare_attention = _attention_backend(device, attention_backend)
    on_cpu = device.type == "cpu"
    return Kernels(
        attention_backend=backend,
        batch_invariant=on_cpu and cpu_linear.rows_are_independent(dtype),
        linear=cpu_linear.linear if on_cpu else plain_linear.linear,
        rms_norm=rms_norm,
        rotate=rotate,
        prepare_attention=prepare_attention,
        route=plain_moe.route,
        run_experts=cpu_moe.run_experts if on_cpu else plain_moe.run_experts,
        prepare_lm_head=cpu_lm_head.prepare_lm_head if on_cpu else plain_lm_head.prepare_lm_head,
    )


def _attention_backend(device: torch.device, wanted: str) -> tuple[str, PrepareAttention]:
    if wanted == "FLASH_ATTN_3":
        works = "auto, TRITON or TORCH" if device.type == "cuda" else "auto or TORCH"
        raise ConfigError(
            f"--attention-backend FLASH_ATTN_3 is not part of this build; use {works}."
        )
    if wanted == "TRITON" and device.type != "cuda":
        raise ConfigError(
            f"--attention-backend TRITON needs a CUDA GPU and this is {device.type}; "
            "use auto or TORCH."
        )
    has_triton = importlib.util.find_spec("triton") is not None
    if wanted == "TRITON" and not has_triton:
        raise ConfigError(
            "--attention-backend TRITON needs the package triton, which comes with torch for "
            "CUDA on Linux; install it, or use auto or TORCH."
        )
    if wanted == "TRITON" or (wanted == "auto" and device.type == "cuda" and has_triton):
        from ossia.kernels.attention import triton_paged

        return "TRITON", triton_paged.prepare_attention
    if wanted not in ("auto", "TORCH"):
        raise ConfigError(f"--attention-backend must be {', '.join(BACKENDS)}, not {wanted}.")
    return "TORCH", blocked.prepare_attention
