"""Chooses, once at start-up, which implementation of each operation the network runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.errors import ConfigError
from ossia.kernels.attention import blocked
from ossia.kernels.attention.interface import PrepareAttention
from ossia.kernels.hopper import HopperKernels, WarmUp, unfit_reason
from ossia.kernels.linear import cpu as cpu_linear
from ossia.kernels.linear import reference as plain_linear
from ossia.kernels.lm_head import cpu as cpu_lm_head
from ossia.kernels.lm_head import reference as plain_lm_head
from ossia.kernels.lm_head.reference import Linear, Logits
from ossia.kernels.moe import cpu as cpu_moe
from ossia.kernels.moe import reference as plain_moe
from ossia.kernels.native.kernels import DenseName, NativeKernels, native_kernels
from ossia.kernels.native.kernels import unfit_reason as unfit_for_native
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.weights import ExpertWeights

BACKENDS = ("auto", "TRITON", "FLASH_ATTN_3", "TORCH")


@dataclass(frozen=True, slots=True)
class Kernels:
    """The operations of the network. What each means: `reference.py` in the folder of its name."""

    attention_backend: str  # TRITON, FLASH_ATTN_3, TORCH or, in whole blocks, NATIVE
    # Whether a token's results have the same bits whatever else is in the step.
    batch_invariant: bool
    linear: Linear
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    prepare_attention: PrepareAttention
    route: Callable[[Tensor, int], tuple[Tensor, Tensor]]
    run_experts: Callable[[Tensor, Tensor, Tensor, ExpertWeights, float, float], Tensor]
    prepare_lm_head: Callable[[Tensor, Linear], Logits]
    # Whole blocks in fused kernels, which take the place of the operations above.
    hopper: HopperKernels | None = None
    native: NativeKernels | None = None  # the same in the library for CPUs
    # Nothing waits for the host, so a CUDA graph can hold a decoding step.
    capturable: bool = False
    reasons: tuple[str, ...] = ()  # sentences on what was chosen, and why

    @property
    def prompts_capturable(self) -> bool:
        """The same for steps with prompts."""
        return self.capturable and self.hopper is not None and self.hopper.attend_prefill is None

    @property
    def warm_up(self) -> WarmUp | None:
        """Makes the fused kernels ready and tests them; None where there are none."""
        if self.native is not None:
            from ossia.kernels.native.self_test import warm_up as warm_up_native

            return partial(warm_up_native, self.native)
        if self.hopper is None:
            return None
        from ossia.kernels.hopper_self_test import warm_up

        return partial(warm_up, self.hopper)


def select_kernels(
    device: torch.device,
    dtype: torch.dtype,
    attention_backend: str = "auto",
    model: ModelConfig | None = None,
    max_rows: int = 256,
    *,
    cpu_dense: DenseName = "int8",
    cpu_threads: int | None = None,
) -> Kernels:
    """The fastest kernels that work here.

    Args:
        device: where the model runs.
        dtype: of weights and activations.
        attention_backend: auto, TRITON, FLASH_ATTN_3 or TORCH.
        model: its geometry; None: any, so kernels that are made for one are left out.
        max_rows: sequences that decode in one step.
        cpu_dense: how the library for CPUs keeps weights outside the experts.
        cpu_threads: of that library; None: one a core.

    Raises:
        ConfigError: a choice that cannot work here; the sentence names what would.
    """
    if attention_backend not in BACKENDS:
        raise ConfigError(
            f"--attention-backend must be {', '.join(BACKENDS)}, not {attention_backend}."
        )
    if device.type == "cpu":
        plain = _on_cpu(dtype, attention_backend)
        if model is None or attention_backend == "TORCH":
            return plain
        return _native(plain, device, model, cpu_dense, cpu_threads)
    return _on_gpu(device, dtype, attention_backend, model, max_rows)


def _native(
    plain: Kernels,
    device: torch.device,
    model: ModelConfig,
    dense: DenseName,
    threads: int | None,
) -> Kernels:
    """The library for CPUs if it is there and can run the model; else a sentence why not."""
    unfit = unfit_for_native(device, model)
    if unfit is not None:
        return replace(plain, reasons=(f"Models run on torch here: {unfit.rstrip('.')}.",))
    native = native_kernels(dense, threads)
    return replace(
        plain,
        attention_backend="NATIVE",
        batch_invariant=native.batch_invariant,
        native=native,
        reasons=(native.describe(),),
    )


def _on_cpu(dtype: torch.dtype, wanted: str) -> Kernels:
    if wanted == "FLASH_ATTN_3":
        raise ConfigError(
            "--attention-backend FLASH_ATTN_3 needs a Hopper GPU and this is cpu; "
            "use auto or TORCH."
        )
    if wanted == "TRITON":
        raise ConfigError(
            "--attention-backend TRITON needs a CUDA GPU and this is cpu; use auto or TORCH."
        )
    return Kernels(
        attention_backend="TORCH",
        batch_invariant=cpu_linear.rows_are_independent(dtype),
        linear=cpu_linear.linear,
        rms_norm=rms_norm,
        rotate=rotate,
        prepare_attention=blocked.prepare_attention,
        route=plain_moe.route,
        run_experts=cpu_moe.run_experts,
        prepare_lm_head=cpu_lm_head.prepare_lm_head,
    )


def _on_gpu(
    device: torch.device, dtype: torch.dtype, wanted: str, model: ModelConfig | None, max_rows: int
) -> Kernels:
    has_triton = importlib.util.find_spec("triton") is not None
    if wanted in ("TRITON", "FLASH_ATTN_3") and not has_triton:
        raise ConfigError(
            f"--attention-backend {wanted} needs the package triton, which comes with torch for "
            "CUDA on Linux; install it, or use auto or TORCH."
        )
    plain = _plain_on_gpu(triton=has_triton and wanted != "TORCH")
    unfit = (
        "no model was named"
        if model is None
        else "they are left out with --attention-backend TORCH"
        if wanted == "TORCH"
        else "the package triton is missing"
        if not has_triton
        else unfit_reason(device, dtype, model)
    )
    if unfit is not None:
        if wanted == "FLASH_ATTN_3":
            raise ConfigError(
                f"--attention-backend FLASH_ATTN_3 goes with the fused Hopper kernels: {unfit}; "
                "use auto, TRITON or TORCH."
            )
        return replace(plain, reasons=(f"Portable kernels run; no fused Hopper kernels: {unfit}.",))
    return _fused_on_hopper(plain, device, wanted, max_rows)


def _fused_on_hopper(plain: Kernels, device: torch.device, wanted: str, max_rows: int) -> Kernels:
    if wanted == "FLASH_ATTN_3":
        from ossia.kernels.attention.flash import find_flash, missing_flash

        capability = torch.cuda.get_device_capability(device)
        flash = find_flash(capability)
        if flash is None:
            raise ConfigError(missing_flash(capability))
        attend, said = flash.attend_prefill, f"{flash.name} for prompts"
    else:
        attend, said = None, "our Triton kernels"
    return replace(
        plain,
        attention_backend="FLASH_ATTN_3" if wanted == "FLASH_ATTN_3" else "TRITON",
        hopper=HopperKernels(attend, max_rows),
        capturable=True,
        reasons=(f"Fused Hopper kernels run, MXFP4 stays packed; attention: {said}.",),
    )


def _plain_on_gpu(*, triton: bool) -> Kernels:
    kernels = Kernels(
        attention_backend="TORCH",
        batch_invariant=False,
        linear=plain_linear.linear,
        rms_norm=rms_norm,
        rotate=rotate,
        prepare_attention=blocked.prepare_attention,
        route=plain_moe.route,
        run_experts=plain_moe.run_experts,
        prepare_lm_head=plain_lm_head.prepare_lm_head,
    )
    if not triton:
        return kernels
    from ossia.kernels.attention import triton_paged
    from ossia.kernels.moe import triton_portable

    return replace(
        kernels,
        attention_backend="TRITON",
        prepare_attention=triton_paged.prepare_attention,
        run_experts=triton_portable.run_experts,
    )
