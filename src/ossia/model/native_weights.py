"""The tensors of a network in the native library's order, by name and as its blocks want them.

Names are those of the checkpoint's parts, `layers.3.sinks`; a matrix is two tensors,
`layers.3.qkv.values` and `layers.3.qkv.scales`. All but the matrices are float32. The head has
only rows that differ (see `kernels/lm_head/cpu.py`): if `lm_head.ids` is there, it says which
tokens they belong to, and the last row is that of every other token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.config import ModelConfig
from ossia.kernels.lm_head.cpu import SHARED_AT_LEAST
from ossia.kernels.native.blocks import AttentionLayer, Heads, MixtureLayer
from ossia.kernels.native.kernels import NativeKernels
from ossia.kernels.native.matrices import Kind, NativeMatrix, pack_dense, pack_experts
from ossia.model.weights import ExpertWeights, ModelWeights
from ossia.mxfp4 import Mxfp4Tensor

HEAD_IDS = "lm_head.ids"
_SAMPLED = 997  # every so many rows of a head are looked at before all are
_LAYER_FLOATS = (
    *("input_norm", "qkv_bias", "sinks", "out_bias", "post_norm", "router", "router_bias"),
    *("gate_up_bias", "down_bias"),
)


@dataclass(frozen=True, slots=True)
class NativeWeights:
    """Everything that `NativeBlocks` needs."""

    config: ModelConfig
    embedding: Tensor  # [vocab, hidden], as in the checkpoint
    layers: tuple[tuple[AttentionLayer, MixtureLayer], ...]
    norm: Tensor  # float32 [hidden]
    lm_head: NativeMatrix  # [vocab, hidden], or [own + 1, hidden]
    lm_head_ids: Tensor | None  # int64 [own]


def matrix_tensors(name: str, matrix: NativeMatrix) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a matrix is kept as; the bias is one of its own."""
    yield f"{name}.values", matrix.values
    if matrix.scales is not None:
        yield f"{name}.scales", matrix.scales


def head_tensors(kernels: NativeKernels, weight: Tensor) -> Iterator[tuple[str, Tensor]]:
    """weight [vocab, hidden] -> the head's matrix, and `lm_head.ids` if most rows are the same."""
    if (weight[::_SAMPLED] == weight[-1]).all(dim=-1).double().mean() >= SHARED_AT_LEAST:
        own = (weight != weight[-1]).any(dim=-1).nonzero().squeeze(-1)
        yield HEAD_IDS, own
        weight = torch.cat((weight[own], weight[-1:]))
    yield from matrix_tensors("lm_head", pack_dense(kernels.context, weight, kind=kernels.dense))


def assemble_native(
    config: ModelConfig, dense: Kind, embedding: Tensor, tensors: Mapping[str, Tensor]
) -> NativeWeights:
    """Put a network together from its tensors."""
    ids = tensors.get(HEAD_IDS)
    rows = config.vocab_size if ids is None else len(ids) + 1
    return NativeWeights(
        config=config,
        embedding=embedding,
        layers=tuple(_layer(config, dense, tensors, i) for i in range(config.num_layers)),
        norm=tensors["norm"],
        lm_head=_matrix(tensors, "lm_head", dense, 1, rows, config.hidden_size, None),
        lm_head_ids=ids,
    )


def native_from_plain(weights: ModelWeights, kernels: NativeKernels) -> NativeWeights:
    """The same network in the library's order, in memory."""
    tensors: dict[str, Tensor] = {"norm": weights.norm.float().contiguous()}
    context = kernels.context
    for i, layer in enumerate(weights.layers):
        experts = layer.experts
        assert isinstance(experts, ExpertWeights)
        for name in _LAYER_FLOATS:
            owner = experts if hasattr(experts, name) else layer
            tensors[f"layers.{i}.{name}"] = getattr(owner, name).float().contiguous()
        for name, dense in (("qkv", layer.qkv), ("out", layer.out)):
            packed = pack_dense(context, dense, kind=kernels.dense)
            tensors.update(matrix_tensors(f"layers.{i}.{name}", packed))
        for name, weight in (("gate_up", experts.gate_up), ("down", experts.down)):
            assert isinstance(weight, Mxfp4Tensor), "experts must be in MXFP4"
            packed = pack_experts(context, weight, None)
            tensors.update(matrix_tensors(f"layers.{i}.{name}", packed))
    tensors.update(head_tensors(kernels, weights.lm_head))
    return assemble_native(weights.config, kernels.dense, weights.embedding, tensors)


def _layer(
    config: ModelConfig, dense: Kind, tensors: Mapping[str, Tensor], layer: int
) -> tuple[AttentionLayer, MixtureLayer]:
    c, at = config, f"layers.{layer}."
    window = c.sliding_window if c.layer_types[layer] == "sliding_attention" else None

    def matrix(
        name: str, rows: int, inputs: int, kind: Kind = dense, count: int = 1
    ) -> NativeMatrix:
        bias = tensors[f"{at}{name}_bias"].view(count, rows)
        return _matrix(tensors, at + name, kind, count, rows, inputs, bias)

    attention = AttentionLayer(
        tensors[f"{at}input_norm"],
        c.rms_norm_eps,
        matrix("qkv", c.qkv_size, c.hidden_size),
        tensors[f"{at}sinks"],
        matrix("out", c.hidden_size, c.num_heads * c.head_dim),
        Heads(c.num_heads, c.num_kv_heads, c.head_dim, window),
    )
    inner, experts = c.intermediate_size, c.num_experts
    mixture = MixtureLayer(
        tensors[f"{at}post_norm"],
        c.rms_norm_eps,
        tensors[f"{at}router"],
        tensors[f"{at}router_bias"],
        matrix("gate_up", 2 * inner, c.hidden_size, Kind.MXFP4, experts),
        matrix("down", c.hidden_size, inner, Kind.MXFP4, experts),
        chosen_per_token=c.experts_per_token,
        alpha=c.swiglu_alpha,
        limit=c.swiglu_limit,
    )
    return attention, mixture


def _matrix(
    tensors: Mapping[str, Tensor],
    name: str,
    kind: Kind,
    count: int,
    rows: int,
    inputs: int,
    bias: Tensor | None,
) -> NativeMatrix:
    return NativeMatrix(
        kind,
        count,
        rows,
        inputs,
        tensors[f"{name}.values"],
        tensors.get(f"{name}.scales"),
        bias,
    )
