"""The parts a gpt-oss network is made of, whatever file layout or random generator they come from.

A part is one tensor of `ModelWeights`; packed experts are two parts, their blocks and their
scales. Layouts say how parts are stored, the dummy generator what random parts look like, and
`assemble` puts parts together to a `ModelWeights`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ossia.config import MXFP4_BLOCK, ModelConfig
from ossia.model.weights import ExpertWeights, LayerWeights, ModelWeights, PlacedExperts
from ossia.mxfp4 import Mxfp4Tensor

Place = Callable[[int, ExpertWeights], ExpertWeights | PlacedExperts]  # layer, its experts
Kind = Literal["embedding", "linear", "bias", "norm", "sinks", "experts", "blocks", "scales"]


@dataclass(frozen=True, slots=True)
class Part:
    """One tensor of the network in the orientation of `ModelWeights`."""

    layer: int | None  # None for the tensors outside the transformer blocks
    field: str  # as in ModelWeights, LayerWeights and ExpertWeights; "gate_up.blocks" when packed
    kind: Kind
    shape: tuple[int, ...]
    fan_in: int = 0  # values that one output sums over; 0 where nothing is multiplied

    @property
    def name(self) -> str:
        """A name that no other part of the network has, such as `layers.3.qkv`."""
        return self.field if self.layer is None else f"layers.{self.layer}.{self.field}"


def model_parts(config: ModelConfig) -> Iterator[Part]:
    """All parts of a network in the order in which it uses them."""
    vocabulary = (config.vocab_size, config.hidden_size)
    yield Part(None, "embedding", "embedding", vocabulary)
    for layer in range(config.num_layers):
        yield from layer_parts(config, layer)
    yield Part(None, "norm", "norm", (config.hidden_size,))
    yield Part(None, "lm_head", "linear", vocabulary, config.hidden_size)


def layer_parts(config: ModelConfig, layer: int) -> Iterator[Part]:
    """The parts of one transformer block."""
    hidden, heads = config.hidden_size, config.num_heads * config.head_dim
    experts, inner = config.num_experts, config.intermediate_size
    yield Part(layer, "input_norm", "norm", (hidden,))
    yield Part(layer, "qkv", "linear", (config.qkv_size, hidden), hidden)
    yield Part(layer, "qkv_bias", "bias", (config.qkv_size,))
    yield Part(layer, "sinks", "sinks", (config.num_heads,))
    yield Part(layer, "out", "linear", (hidden, heads), heads)
    yield Part(layer, "out_bias", "bias", (hidden,))
    yield Part(layer, "post_norm", "norm", (hidden,))
    yield Part(layer, "router", "linear", (experts, hidden), hidden)
    yield Part(layer, "router_bias", "bias", (experts,))
    yield from _expert_parts(config, layer, "gate_up", (experts, 2 * inner, hidden))
    yield Part(layer, "gate_up_bias", "bias", (experts, 2 * inner))
    yield from _expert_parts(config, layer, "down", (experts, hidden, inner))
    yield Part(layer, "down_bias", "bias", (experts, hidden))


def _expert_parts(
    config: ModelConfig, layer: int, field: str, shape: tuple[int, int, int]
) -> Iterator[Part]:
    experts, rows, columns = shape
    if config.expert_format == "bf16":
        yield Part(layer, field, "experts", shape, columns)
        return
    groups = (experts, rows, columns // MXFP4_BLOCK)
    yield Part(layer, f"{field}.blocks", "blocks", (*groups, MXFP4_BLOCK // 2), columns)
    yield Part(layer, f"{field}.scales", "scales", groups, columns)


def assemble(
    config: ModelConfig, read: Callable[[Part], Tensor], place: Place | None = None
) -> ModelWeights:
    """Put a network together.

    Args:
        config: the geometry.
        read: delivers each part once, in the order of `model_parts`.
        place: puts the experts of a layer into another order as soon as the layer is complete;
            what it was given is dropped before the next layer is read.
    """
    tensors: dict[str, Tensor] = {}
    layers: list[LayerWeights] = []
    for part in model_parts(config):
        tensors[part.field] = read(part)
        if part.field == "down_bias":
            layers.append(_layer(tensors, len(layers), place))
            # Nothing else may hold on to experts that were placed.
            tensors = {name: t for name, t in tensors.items() if name == "embedding"}
    return ModelWeights(
        config=config,
        embedding=tensors["embedding"],
        layers=tuple(layers),
        norm=tensors["norm"],
        lm_head=tensors["lm_head"],
    )


def _layer(tensors: dict[str, Tensor], index: int, place: Place | None) -> LayerWeights:
    experts = ExpertWeights(
        gate_up=_experts(tensors, "gate_up"),
        gate_up_bias=tensors["gate_up_bias"],
        down=_experts(tensors, "down"),
        down_bias=tensors["down_bias"],
    )
    return LayerWeights(
        input_norm=tensors["input_norm"],
        qkv=tensors["qkv"],
        qkv_bias=tensors["qkv_bias"],
        sinks=tensors["sinks"],
        out=tensors["out"],
        out_bias=tensors["out_bias"],
        post_norm=tensors["post_norm"],
        router=tensors["router"],
        router_bias=tensors["router_bias"],
        experts=experts if place is None else place(index, experts),
    )


def _experts(tensors: dict[str, Tensor], field: str) -> Mxfp4Tensor | Tensor:
    if field in tensors:
        return tensors[field]
    return Mxfp4Tensor(tensors[f"{field}.blocks"], tensors[f"{field}.scales"])
