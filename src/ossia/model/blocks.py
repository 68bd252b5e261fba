"""A transformer block's two halves, and the head: what the network is made of, whatever runs it.

    x += out(attention(norm(x)))        # `attention`
    x += experts(norm(x))               # `mixture`

`PlainBlocks` says it in single operations, and runs everywhere. `hopper_blocks.py` has the same in
fused kernels, `native_blocks.py` in the library for CPUs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ossia.kernels.attention.interface import Attend
from ossia.kernels.moe.prepare import prepare_experts
from ossia.kernels.select import Kernels
from ossia.model.batch import ForwardBatch, LayerCache
from ossia.model.native_weights import NativeWeights
from ossia.model.rotary import RotaryEmbedding
from ossia.model.weights import ModelWeights

Step = TypeVar("Step")


class Blocks(Protocol[Step]):
    """The network between the embedding and the logits. x is [tokens, hidden] throughout."""

    def begin(self, batch: ForwardBatch, page_size: int) -> Step:
        """Work out what depends on the step alone; for the calls below."""

    def attention(self, layer: int, x: Tensor, step: Step, cache: LayerCache) -> Tensor:
        """x + out(attention(norm(x))); writes the new keys and values into the layer's cache."""

    def mixture(self, layer: int, x: Tensor, step: Step) -> Tensor:
        """x + experts(norm(x))."""

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [rows, hidden] -> float32 [rows, vocab].

        They are the first rows of `out`, where that is given; its further rows may change too.
        """


def make_blocks(
    weights: ModelWeights | NativeWeights, kernels: Kernels, device: torch.device
) -> Blocks[Any]:
    """The blocks of a network, in the kernels that were chosen."""
    if kernels.native is not None:
        from ossia.model.native_blocks import NativeBlocks

        return NativeBlocks(weights, kernels.native)
    assert isinstance(weights, ModelWeights), "weights were put in order for other kernels"
    if kernels.hopper is None:
        return PlainBlocks(weights, kernels, device)
    from ossia.model.hopper_blocks import HopperBlocks

    return HopperBlocks(weights, kernels.hopper, device)


@dataclass(frozen=True, slots=True)
class PlainStep:
    """What all layers of a step share."""

    cos: Tensor  # float32 [tokens, head_dim / 2]
    sin: Tensor  # the same
    attend: dict[str, Attend]  # by the kind of the layer


class PlainBlocks:
    """One operation after the other."""

    def __init__(self, weights: ModelWeights, kernels: Kernels, device: torch.device) -> None:
        self._config = weights.config
        self._weights = weights
        self._experts = prepare_experts(weights)
        self._kernels = kernels
        self._rotary = RotaryEmbedding(weights.config.rope, weights.config.head_dim, device)
        self._logits = kernels.prepare_lm_head(weights.lm_head, kernels.linear)

    def begin(self, batch: ForwardBatch, page_size: int) -> PlainStep:
        """See `Blocks`."""
        c, k = self._config, self._kernels
        cos, sin = self._rotary(batch.positions)
        attend = {
            "full_attention": k.prepare_attention(batch.full, page_size, c.num_kv_heads, None),
            "sliding_attention": k.prepare_attention(
                batch.window, page_size, c.num_kv_heads, c.sliding_window
            ),
        }
        return PlainStep(cos, sin, attend)

    def attention(self, layer: int, x: Tensor, step: PlainStep, cache: LayerCache) -> Tensor:
        """See `Blocks`."""
        c, k, w = self._config, self._kernels, self._weights.layers[layer]
        normed = k.rms_norm(x, w.input_norm, c.rms_norm_eps)
        qkv = k.linear(normed, w.qkv, w.qkv_bias)
        # heads: [tokens, heads + 2 * kv_heads, head_dim]
        heads = qkv.view(len(x), c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        turned = k.rotate(heads[:, : c.num_heads + c.num_kv_heads], step.cos, step.sin)
        q, keys = turned[:, : c.num_heads], turned[:, c.num_heads :]
        values = heads[:, c.num_heads + c.num_kv_heads :]
        attend = step.attend[c.layer_types[layer]]
        mixed = attend(q, keys, values, cache, w.sinks, c.head_dim**-0.5)  # like q
        return x + k.linear(mixed.flatten(1), w.out, w.out_bias)

    def mixture(self, layer: int, x: Tensor, step: PlainStep) -> Tensor:
        """See `Blocks`."""
        c, k, w = self._config, self._kernels, self._weights.layers[layer]
        normed = k.rms_norm(x, w.post_norm, c.rms_norm_eps)
        router_logits = k.linear(normed, w.router, w.router_bias)  # [tokens, experts]
        shares, chosen = k.route(router_logits, c.experts_per_token)
        experts = self._experts[layer]
        return x + k.run_experts(normed, shares, chosen, experts, c.swiglu_alpha, c.swiglu_limit)

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Blocks`."""
        normed = self._kernels.rms_norm(x, self._weights.norm, self._config.rms_norm_eps)
        found = self._logits(normed)
        return found if out is None else out[: len(x)].copy_(found)
