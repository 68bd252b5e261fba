"""Unpacks the experts of small models once, so that a step need not."""

from __future__ import annotations

from dataclasses import replace

import torch

from ossia.config import ModelConfig
from ossia.model.weights import ExpertWeights, ModelWeights, PlacedExperts
from ossia.mxfp4 import Mxfp4Tensor, unpack

UNPACK_AT_MOST = 512 * 2**20  # bytes that the experts of the whole model may take when unpacked


def unpacked_bytes(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes that unpacking adds to the packed experts of the whole model; 0 if they stay packed."""
    one = 3 * config.intermediate_size * config.hidden_size  # values of an expert
    size = config.num_layers * config.num_experts * one * dtype.itemsize
    return size if config.expert_format == "mxfp4" and size <= UNPACK_AT_MOST else 0


def prepare_experts(weights: ModelWeights) -> tuple[ExpertWeights, ...]:
    """The experts of each layer: unpacked if all together are small enough, else as they are.

    The numbers are those that unpacking at every step would give.
    """
    dtype = weights.embedding.dtype
    experts = tuple(_as_stored(layer.experts) for layer in weights.layers)
    if not unpacked_bytes(weights.config, dtype):
        return experts
    return tuple(_unpack(one, dtype) for one in experts)


def _as_stored(experts: ExpertWeights | PlacedExperts) -> ExpertWeights:
    assert isinstance(experts, ExpertWeights), "experts were placed for other kernels"
    return experts


def _unpack(experts: ExpertWeights, dtype: torch.dtype) -> ExpertWeights:
    gate_up, down = experts.gate_up, experts.down
    if isinstance(gate_up, Mxfp4Tensor):
        gate_up = unpack(gate_up, dtype)
    if isinstance(down, Mxfp4Tensor):
        down = unpack(down, dtype)
    return replace(experts, gate_up=gate_up, down=down)
