"""A transformer block in fused kernels for Hopper; what it computes is in `blocks.py`.

How many tokens a step has decides which kernels run. One token: matrix-vector products that read
each weight once, the norm folded in. Few: the weights are streamed through the tensor cores and
stay packed. Many: the library's matrix products, and experts in tiles of 256 rows.

    tokens          1                 2 .. 64        65 .. 512       more
    qkv, out        triton_one        triton_few     fused_many      fused_many
    experts         experts_one       as `moe/hopper_plan.py` says: few, mid, many

All but steps with prompts can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ossia.kernels.attention.decode_scratch import DecodeScratch
from ossia.kernels.attention.triton_decode import attend_decode
from ossia.kernels.attention.triton_prefill import attend_prefill
from ossia.kernels.attention_out.fused_many import project_out_many
from ossia.kernels.attention_out.triton_few import project_out_few
from ossia.kernels.attention_out.triton_one import project_out_one
from ossia.kernels.hopper import HopperKernels
from ossia.kernels.lm_head.fused_many import logits_many
from ossia.kernels.lm_head.triton_one import logits_one
from ossia.kernels.moe.cuda_decode import experts_one
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.moe.hopper_plan import ExpertsPlan, plan_experts, run_plan
from ossia.kernels.qkv.fused_many import project_normed_many
from ossia.kernels.qkv.triton_few import project_normed_few
from ossia.kernels.qkv.triton_one import project_qkv_one
from ossia.kernels.rms_norm.triton_norm import rms_norm
from ossia.kernels.router.triton_combine import combine
from ossia.kernels.router.triton_few import route_and_group
from ossia.kernels.router.triton_one import route_one
from ossia.kernels.thresholds import (
    HEAD_FEW_ROWS,
    OUT_FEW_TOKENS,
    QKV_FEW_TOKENS,
)
from ossia.model.batch import ForwardBatch, LayerCache
from ossia.model.rotary import RotaryEmbedding
from ossia.model.weights import ModelWeights

HEAD_STEP = 128  # rows of the head are computed in multiples of this, where the library does it


@dataclass(slots=True)
class HopperStep:
    """What the layers of a step share, and pass on."""

    batch: ForwardBatch
    tokens: int
    decodes: bool  # every sequence has one token
    experts: ExpertsPlan  # of two and more tokens
    normed: Tensor | None = None  # x as the next layer norms it, where the last one could


class HopperBlocks:
    """See `Blocks`."""

    def __init__(self, weights: ModelWeights, kernels: HopperKernels, device: torch.device) -> None:
        c = weights.config
        self._config = c
        self._weights = weights
        self._kernels = kernels
        self._pdl = kernels.pdl
        rotary = RotaryEmbedding(c.rope, c.head_dim, device)
        self._cos_sin = rotary.table(c.max_context)
        self._scratch = DecodeScratch.allocate(
            kernels.max_rows, c.num_heads, c.num_kv_heads, c.head_dim, device, pdl=kernels.pdl
        )
        # With the scratch of decoding steps, mixed steps need no other variants of its kernels.
        self._attend_prefill = kernels.attend_prefill or partial(
            attend_prefill, scratch=self._scratch
        )
        self._scale = c.head_dim**-0.5

    def begin(self, batch: ForwardBatch, page_size: int) -> HopperStep:
        """See `Blocks`."""
        del page_size
        c, tokens = self._config, len(batch.positions)
        plan = plan_experts(tokens, c.experts_per_token, c.num_experts)
        return HopperStep(batch, tokens, batch.full.max_query_len == 1, plan)

    def attention(self, layer: int, x: Tensor, step: HopperStep, cache: LayerCache) -> Tensor:
        """See `Blocks`."""
        c, w = self._config, self._weights.layers[layer]
        window = c.sliding_window if c.layer_types[layer] == "sliding_attention" else None
        paged = step.batch.full if window is None else step.batch.window
        q = self._queries(layer, x, step, paged.slots, cache)
        if step.decodes:
            mixed = attend_decode(q, cache, paged, w.sinks, self._scale, window, self._scratch)
        else:
            mixed = self._attend_prefill(q, cache, paged, w.sinks, self._scale, window)
        if step.tokens == 1:
            return project_out_one(x, mixed, w.out, w.out_bias, pdl=self._pdl)
        if step.tokens <= OUT_FEW_TOKENS:
            return project_out_few(x, mixed.flatten(1), w.out, w.out_bias, pdl=self._pdl)
        return project_out_many(x, mixed.flatten(1), w.out, w.out_bias, pdl=self._pdl)

    def _queries(
        self, layer: int, x: Tensor, step: HopperStep, slots: Tensor, cache: LayerCache
    ) -> Tensor:
        w = self._weights.layers[layer]
        eps, positions = self._config.rms_norm_eps, step.batch.positions
        # Attention reads lengths and pages before it waits: what laid them out must be complete
        # before the first kernel of the step begins.
        first = self._pdl and layer > 0
        if step.tokens == 1:
            return project_qkv_one(
                x,
                w.input_norm,
                w.qkv,
                w.qkv_bias,
                eps,
                positions,
                slots,
                self._cos_sin,
                cache,
                pdl=first,
            )
        normed, step.normed = step.normed, None
        if normed is None:
            normed = rms_norm(x, w.input_norm, eps, pdl=first)
        project = project_normed_few if step.tokens <= QKV_FEW_TOKENS else project_normed_many
        return project(
            normed, w.qkv, w.qkv_bias, positions, slots, self._cos_sin, cache, pdl=self._pdl
        )

    def mixture(self, layer: int, x: Tensor, step: HopperStep) -> Tensor:
        """See `Blocks`."""
        c, w = self._config, self._weights.layers[layer]
        experts = w.experts
        assert isinstance(experts, HopperExperts)
        alpha, limit, k = c.swiglu_alpha, c.swiglu_limit, c.experts_per_token
        router = (w.post_norm, w.router, w.router_bias, c.rms_norm_eps)
        if step.tokens == 1:
            normed, logits = route_one(x, *router, pdl=self._pdl)
            return experts_one(x, normed, logits, experts, k, alpha, limit, pdl=self._pdl)
        plan = step.experts
        routed, groups = route_and_group(x, *router, k, plan.rows_a_tile, pdl=self._pdl)
        y = run_plan(plan, routed.normed, groups, experts, alpha, limit, pdl=self._pdl)
        following = self._weights.layers[layer + 1].input_norm if layer + 1 < c.num_layers else None
        x, step.normed = combine(x, y, routed.shares, following, c.rms_norm_eps, pdl=self._pdl)
        return x

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """See `Blocks`."""
        w, eps = self._weights, self._config.rms_norm_eps
        rows = len(x)
        if rows == 1:
            out = None if out is None else out[:1]
            return logits_one(x, w.norm, eps, w.lm_head, pdl=self._pdl, out=out)
        padded = _head_rows(rows)
        if out is not None and padded > len(out):
            padded = rows
        x = torch.nn.functional.pad(x, (0, 0, 0, padded - rows))
        out = None if out is None else out[:padded]
        return logits_many(x, w.norm, eps, w.lm_head, pdl=self._pdl, out=out)[:rows]


def _head_rows(rows: int) -> int:
    """How many rows of logits are computed for this many.

    The library has another kernel for every eight rows, and loading one takes a quarter of a
    second when it is first used. The head is bound by its weights: more rows cost little.
    """
    return rows if rows <= HEAD_FEW_ROWS else -(-rows // HEAD_STEP) * HEAD_STEP
