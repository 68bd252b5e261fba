"""A transformer block in the native CPU library, one call for all layers; see `blocks.py`.

Activations are float32 throughout; the cache has the type of the embedding. A step of one token
reads the chosen experts and all other weights once, which is all that takes time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.kernels.native.blocks import (
    Layers,
    Pages,
    attention_block,
    head,
    mixture_block,
)
from ossia.kernels.native.kernels import NativeKernels
from ossia.model.batch import ForwardBatch, LayerCache
from ossia.model.native_weights import NativeWeights, native_from_plain
from ossia.model.rotary import RotaryEmbedding
from ossia.model.weights import ModelWeights


@dataclass(frozen=True, slots=True)
class NativeStep:
    """What all layers of a step share."""

    full: Pages
    window: Pages


class NativeBlocks:
    """See `Blocks`."""

    def __init__(self, weights: ModelWeights | NativeWeights, kernels: NativeKernels) -> None:
        """Weights that are not in the library's order yet are brought into it, in memory."""
        if isinstance(weights, ModelWeights):
            weights = native_from_plain(weights, kernels)
        c = weights.config
        self._weights = weights
        self._context = kernels.context
        self._layers = Layers(weights.layers)
        self._eps = c.rms_norm_eps
        self._slides = tuple(kind == "sliding_attention" for kind in c.layer_types)
        self._rotary = RotaryEmbedding(c.rope, c.head_dim, torch.device("cpu"))

    def begin(self, batch: ForwardBatch, page_size: int) -> NativeStep:
        """See `Blocks`."""
        del page_size
        cos, sin = self._rotary(batch.positions)
        return NativeStep(Pages(batch.full, cos, sin), Pages(batch.window, cos, sin))

    def attention(self, layer: int, x: Tensor, step: NativeStep, cache: LayerCache) -> Tensor:
        """See `Blocks`; the first layer turns x into float32."""
        pages = step.window if self._slides[layer] else step.full
        x = x.to(torch.float32)
        return attention_block(self._context, self._weights.layers[layer][0], pages, cache, x)

    def mixture(self, layer: int, x: Tensor, step: NativeStep) -> Tensor:
        """See `Blocks`."""
        del step
        return mixture_block(self._context, self._weights.layers[layer][1], x)

    def layers(self, x: Tensor, step: NativeStep, caches: Sequence[LayerCache]) -> Tensor:
        """All layers in one call: `attention` and `mixture` of each, one after the other."""
        pages = [step.window if slides else step.full for slides in self._slides]
        return self._layers.run(self._context, pages, caches, x.to(torch.float32))

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Blocks`."""
        w = self._weights
        out = torch.empty(len(x), w.config.vocab_size) if out is None else out[: len(x)]
        if w.lm_head_ids is None:
            return head(self._context, w.norm, self._eps, w.lm_head, x.to(torch.float32), out)
        found = torch.empty(len(x), w.lm_head.rows)
        head(self._context, w.norm, self._eps, w.lm_head, x.to(torch.float32), found)
        out.copy_(found[:, -1:].expand_as(out))
        return out.index_copy_(1, w.lm_head_ids, found[:, :-1])
