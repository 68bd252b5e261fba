"""The tensors of one gpt-oss network, as every checkpoint layout delivers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ossia.config import ModelConfig
from ossia.mxfp4 import Mxfp4Tensor


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """The experts of one layer; rows of `gate_up` alternate gate (even) and up (odd).

    Packed experts are `Mxfp4Tensor`s that stay packed; unpacked ones are plain tensors of the
    same logical shape.
    """

    gate_up: Mxfp4Tensor | Tensor  # [experts, 2 * intermediate, hidden]
    gate_up_bias: Tensor  # [experts, 2 * intermediate]
    down: Mxfp4Tensor | Tensor  # [experts, hidden, intermediate]
    down_bias: Tensor  # [experts, hidden]


class PlacedExperts(Protocol):
    """The experts of one layer in an order that a kernel chose; only that kernel looks inside."""


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One transformer block."""

    input_norm: Tensor  # [hidden]
    qkv: Tensor  # [(heads + 2 * kv_heads) * head_dim, hidden], queries first, then keys, values
    qkv_bias: Tensor  # [(heads + 2 * kv_heads) * head_dim]
    sinks: Tensor  # [heads]
    out: Tensor  # [hidden, heads * head_dim]
    out_bias: Tensor  # [hidden]
    post_norm: Tensor  # [hidden]
    router: Tensor  # [experts, hidden]
    router_bias: Tensor  # [experts]
    experts: ExpertWeights | PlacedExperts


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """Everything that `GptOssForCausalLM` needs besides its configuration."""

    config: ModelConfig
    embedding: Tensor  # [vocab, hidden]
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [hidden]
    lm_head: Tensor  # [vocab, hidden]
