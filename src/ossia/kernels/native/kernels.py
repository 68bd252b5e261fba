"""Whether the native library can run a model here, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

import torch

from ossia.config import MXFP4_BLOCK, ModelConfig
from ossia.kernels.native.blocks import DIM_STEP, MOST_GROUP
from ossia.kernels.native.library import THREADS_VARIABLE, Context, open_context, status
from ossia.kernels.native.matrices import Kind

DenseName = Literal["int8", "bf16"]  # of --cpu-dense
DENSE_KINDS: dict[DenseName, Kind] = {"int8": Kind.INT8, "bf16": Kind.BF16}
MOST_CHOSEN = 16  # experts of a token


@dataclass(frozen=True, slots=True)
class NativeKernels:
    """What the blocks in the native library need to know."""

    context: Context
    dense: Kind  # of weights outside the experts

    @property
    def batch_invariant(self) -> bool:
        """Whether a token's bits depend on nothing but its sequence.

        AMX multiplies many tokens in bfloat16 and few in integers, so there they depend on how
        many tokens of a step chose the same expert.
        """
        return self.context.level != "amx"

    def describe(self) -> str:
        """For a person."""
        dense = {kind: name for name, kind in DENSE_KINDS.items()}[self.dense]
        return (
            f"Native CPU kernels: {self.context.level}, {self.context.threads} threads, experts in "
            f"MXFP4, other weights in {dense}."
        )


def unfit_reason(device: torch.device, model: ModelConfig) -> str | None:
    """Why the native library cannot run this model here; None if it can."""
    if device.type != "cpu":
        return "it is for CPUs"
    found = status()
    if not found.available:
        return found.sentence
    if model.expert_format != "mxfp4":
        return "the experts are not in MXFP4; --quantization mxfp4 would pack them"
    return geometry_reason(model)


def geometry_reason(model: ModelConfig) -> str | None:
    """Why the geometry does not fit the library's blocks; None if it does."""
    c = model
    inputs = (c.hidden_size, c.intermediate_size, c.num_heads * c.head_dim)
    if any(size % MXFP4_BLOCK for size in inputs):
        return f"hidden, intermediate and attention size must be multiples of {MXFP4_BLOCK}"
    if c.head_dim % DIM_STEP or c.num_heads > MOST_GROUP * c.num_kv_heads:
        return (
            f"head_dim must be a multiple of {DIM_STEP}, with at most {MOST_GROUP} query heads a "
            "key head"
        )
    if c.experts_per_token > MOST_CHOSEN:
        return f"at most {MOST_CHOSEN} experts a token"
    return None


def native_kernels(dense: DenseName = "int8", threads: int | None = None) -> NativeKernels:
    """Start the library's threads.

    Args:
        dense: how weights outside the experts are kept.
        threads: None for one a core; OSSIA_CPU_THREADS is stronger.

    Raises:
        NativeUnavailable: there is no library, or not the level that the environment asks for.
    """
    if os.environ.get(THREADS_VARIABLE):
        threads = None
    return NativeKernels(open_context(threads=threads), DENSE_KINDS[dense])
