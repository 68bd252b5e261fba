"""How the two checkpoint layouts name and store the parts of a network.

`hf` is what transformers reads: q, k and v apart, bfloat16 experts transposed to
[experts, in, out]. `original` is OpenAI's own: q, k and v fused, experts [experts, out, in].
Packed experts are stored alike in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ossia.checkpoint.parts import Part
from ossia.config import ModelConfig

Layout = Literal["hf", "original"]

_HF_MODEL = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.norm.weight",
    "lm_head": "lm_head.weight",
}
_HF_LAYER = {
    "input_norm": "input_layernorm.weight",
    "sinks": "self_attn.sinks",
    "out": "self_attn.o_proj.weight",
    "out_bias": "self_attn.o_proj.bias",
    "post_norm": "post_attention_layernorm.weight",
    "router": "mlp.router.weight",
    "router_bias": "mlp.router.bias",
    "gate_up": "mlp.experts.gate_up_proj",
    "gate_up.blocks": "mlp.experts.gate_up_proj_blocks",
    "gate_up.scales": "mlp.experts.gate_up_proj_scales",
    "gate_up_bias": "mlp.experts.gate_up_proj_bias",
    "down": "mlp.experts.down_proj",
    "down.blocks": "mlp.experts.down_proj_blocks",
    "down.scales": "mlp.experts.down_proj_scales",
    "down_bias": "mlp.experts.down_proj_bias",
}
_ORIGINAL_MODEL = {
    "embedding": "embedding.weight",
    "norm": "norm.scale",
    "lm_head": "unembedding.weight",
}
_ORIGINAL_LAYER = {
    "input_norm": "attn.norm.scale",
    "qkv": "attn.qkv.weight",
    "qkv_bias": "attn.qkv.bias",
    "sinks": "attn.sinks",
    "out": "attn.out.weight",
    "out_bias": "attn.out.bias",
    "post_norm": "mlp.norm.scale",
    "router": "mlp.gate.weight",
    "router_bias": "mlp.gate.bias",
    "gate_up": "mlp.mlp1_weight",
    "gate_up.blocks": "mlp.mlp1_weight.blocks",
    "gate_up.scales": "mlp.mlp1_weight.scales",
    "gate_up_bias": "mlp.mlp1_bias",
    "down": "mlp.mlp2_weight",
    "down.blocks": "mlp.mlp2_weight.blocks",
    "down.scales": "mlp.mlp2_weight.scales",
    "down_bias": "mlp.mlp2_bias",
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a file; the tensors of a part, put together along axis 0, are the part."""

    name: str
    shape: tuple[int, ...]  # as it stands in the file
    packed: bool  # uint8 codes rather than floating point
    transposed: bool = False  # the last two axes of the part are swapped in the file


def stored_tensors(layout: Layout, config: ModelConfig, part: Part) -> tuple[StoredTensor, ...]:
    """The tensors in which a layout stores a part."""
    packed = part.kind in ("blocks", "scales")
    if layout == "original":
        return (StoredTensor(_name(layout, part), part.shape, packed),)
    if part.field in ("qkv", "qkv_bias"):
        return tuple(_split_qkv(config, part))
    if part.kind == "experts":
        experts, rows, columns = part.shape
        return (StoredTensor(_name(layout, part), (experts, columns, rows), False, True),)
    return (StoredTensor(_name(layout, part), part.shape, packed),)


def layer_prefix(layout: Layout, layer: int) -> str:
    """What the names of all tensors of a layer start with."""
    return f"model.layers.{layer}." if layout == "hf" else f"block.{layer}."


def _name(layout: Layout, part: Part) -> str:
    if part.layer is None:
        return (_HF_MODEL if layout == "hf" else _ORIGINAL_MODEL)[part.field]
    names = _HF_LAYER if layout == "hf" else _ORIGINAL_LAYER
    return layer_prefix(layout, part.layer) + names[part.field]


def _split_qkv(config: ModelConfig, part: Part) -> Iterator[StoredTensor]:
    assert part.layer is not None
    suffix = "bias" if part.field == "qkv_bias" else "weight"
    heads = {"q": config.num_heads, "k": config.num_kv_heads, "v": config.num_kv_heads}
    for letter, count in heads.items():
        name = f"{layer_prefix('hf', part.layer)}self_attn.{letter}_proj.{suffix}"
        yield StoredTensor(name, (count * config.head_dim, *part.shape[1:]), packed=False)
