"""The gpt-oss network, top to bottom. Operations are called by name from `kernels/`.

x = embedding[tokens]
each layer:  x += out(attention(norm(x)));  x += experts(norm(x))
logits = lm_head(norm(x))
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ossia.kernels.attention.interface import Attend
from ossia.kernels.moe.prepare import prepare_experts
from ossia.kernels.select import Kernels
from ossia.model.batch import ForwardBatch, LayerCache
from ossia.model.rotary import RotaryEmbedding
from ossia.model.weights import ExpertWeights, LayerWeights, ModelWeights


class GptOssForCausalLM:
    """Logits for the next token, from token ids and paged caches."""

    def __init__(self, weights: ModelWeights, kernels: Kernels, device: torch.device) -> None:
        """`weights` are on `device` already."""
        self.config = weights.config
        self.device = device
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._experts = prepare_experts(weights)
        self._kernels = kernels
        self._rotary = RotaryEmbedding(self.config.rope, self.config.head_dim, device)
        self._logits = kernels.prepare_lm_head(weights.lm_head, kernels.linear)

    @torch.no_grad()
    def forward(self, batch: ForwardBatch, caches: Sequence[LayerCache]) -> Tensor:
        """Run one step: write the new keys and values into `caches`, one a layer, return logits.

        Returns:
            float32 [rows, vocab], one row for each of `batch.logit_rows`.
        """
        c, k, w = self.config, self._kernels, self._weights
        page_size = caches[0].keys.shape[1]
        attend = {
            "full_attention": k.prepare_attention(batch.full, page_size, c.num_kv_heads, None),
            "sliding_attention": k.prepare_attention(
                batch.window, page_size, c.num_kv_heads, c.sliding_window
            ),
        }
        cos, sin = self._rotary(batch.positions)  # [tokens, head_dim / 2]
        x = w.embedding.index_select(0, batch.token_ids)  # [tokens, hidden]
        for i, layer in enumerate(w.layers):
            normed = k.rms_norm(x, layer.input_norm, c.rms_norm_eps)
            x = x + self._attention(normed, layer, cos, sin, attend[c.layer_types[i]], caches[i])
            normed = k.rms_norm(x, layer.post_norm, c.rms_norm_eps)
            x = x + self._mixture(normed, layer, self._experts[i])
        x = x.index_select(0, batch.logit_rows)  # [rows, hidden]
        return self._logits(k.rms_norm(x, w.norm, c.rms_norm_eps))

    def _attention(
        self,
        x: Tensor,
        layer: LayerWeights,
        cos: Tensor,
        sin: Tensor,
        attend: Attend,
        cache: LayerCache,
    ) -> Tensor:
        c, k = self.config, self._kernels
        qkv = k.linear(x, layer.qkv, layer.qkv_bias)
        # heads: [tokens, heads + 2 * kv_heads, head_dim]
        heads = qkv.view(len(x), c.num_heads + 2 * c.num_kv_heads, c.head_dim)
        turned = k.rotate(heads[:, : c.num_heads + c.num_kv_heads], cos, sin)
        q, keys = turned[:, : c.num_heads], turned[:, c.num_heads :]
        values = heads[:, c.num_heads + c.num_kv_heads :]
        # mixed: [tokens, heads, head_dim]
        mixed = attend(q, keys, values, cache, layer.sinks, c.head_dim**-0.5)
        return k.linear(mixed.flatten(1), layer.out, layer.out_bias)

    def _mixture(self, x: Tensor, layer: LayerWeights, experts: ExpertWeights) -> Tensor:
        c, k = self.config, self._kernels
        router_logits = k.linear(x, layer.router, layer.router_bias)  # [tokens, experts]
        shares, chosen = k.route(router_logits, c.experts_per_token)
        return k.run_experts(x, shares, chosen, experts, c.swiglu_alpha, c.swiglu_limit)
