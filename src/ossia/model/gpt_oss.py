"""The gpt-oss network, top to bottom. What a block does is in `blocks.py`.

x = embedding[tokens]
each layer:  x += out(attention(norm(x)));  x += experts(norm(x))
logits = lm_head(norm(x))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ossia.kernels.select import Kernels
from ossia.model.batch import ForwardBatch, LayerCache
from ossia.model.blocks import make_blocks
from ossia.model.native_blocks import NativeBlocks
from ossia.model.native_weights import NativeWeights
from ossia.model.weights import ModelWeights


class GptOssForCausalLM:
    """Logits for the next token, from token ids and paged caches."""

    def __init__(
        self, weights: ModelWeights | NativeWeights, kernels: Kernels, device: torch.device
    ) -> None:
        """`weights` are on `device` already."""
        self.config = weights.config
        self.device = device
        self.dtype = weights.embedding.dtype
        self.embedding = weights.embedding  # [vocab, hidden]
        self._blocks = make_blocks(weights, kernels, device)

    @torch.no_grad()
    def forward(self, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """Run one step: write the new keys and values into `caches`, one a layer, return logits.

        Returns:
            float32 [rows, vocab], one row for each of `batch.logit_rows`.
        """
        x = self.embedding.index_select(0, batch.token_ids)  # [tokens, hidden]
        x = self.run_layers(x, batch, caches)
        return self.logits(x.index_select(0, batch.logit_rows))

    @torch.no_grad()
    def run_layers(self, x: Tensor, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """From embedded tokens to what the last layer makes of them, both [tokens, hidden]."""
        step = self._blocks.begin(batch, caches[0].keys.shape[1])
        if isinstance(self._blocks, NativeBlocks):
            return self._blocks.layers(x, step, caches)
        for layer, cache in enumerate(caches):
            x = self._blocks.attention(layer, x, step, cache)
            x = self._blocks.mixture(layer, x, step)
        return x

    @torch.no_grad()
    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [rows, hidden] -> float32 [rows, vocab]; see `Blocks`."""
        return self._blocks.logits(x, out)
