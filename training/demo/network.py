"""The demo network as it is trained: gpt-oss in plain torch, its experts rounded to MXFP4.

It runs over one long row of packed documents. Parameters of all layers are stacked, so that the
optimizer handles each kind in one batched operation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from ossia.config import ModelConfig
from ossia.model.rotary import inverse_frequencies

BLOCK = 32  # values that share one MXFP4 scale
MASK_BLOCK = 128  # tokens of a block in the attention mask


def demo_config() -> ModelConfig:
    """Geometry of the bundled demo model."""
    return ModelConfig(
        hidden_size=256,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        num_experts=16,
        experts_per_token=4,
        intermediate_size=64,
    )


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent, exact; exponent: int32 within -126 .. 127."""
    return ((exponent + 127) << 23).view(torch.float32)


def _to_e2m1(magnitude: Tensor) -> Tensor:
    """Nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, ties to an even mantissa."""
    fine = torch.round(magnitude * 2) / 2
    middle = torch.round(magnitude)
    coarse = (torch.round(magnitude / 2) * 2).clamp(max=6.0)
    return torch.where(magnitude < 2, fine, torch.where(magnitude < 4, middle, coarse))


def round_to_mxfp4(weights: Tensor) -> Tensor:
    """The values that `ossia.mxfp4.quantise` keeps, as float32; weights: [..., columns]."""
    blocks = weights.unflatten(-1, (-1, BLOCK))
    magnitude = blocks.abs()
    largest = magnitude.amax(dim=-1, keepdim=True)
    exponent = ((largest.view(torch.int32) >> 23) - 127 - 2).clamp(-120, 120)
    low = _to_e2m1(magnitude * _power_of_two(-exponent)) * _power_of_two(exponent)
    high = _to_e2m1(magnitude * _power_of_two(-exponent - 1)) * _power_of_two(exponent + 1)
    low_error = (magnitude - low).square().sum(dim=-1, keepdim=True)
    high_error = (magnitude - high).square().sum(dim=-1, keepdim=True)
    rounded = torch.where(high_error < low_error, high, low)
    return torch.copysign(rounded, blocks).flatten(-2)


def straight_through(weights: Tensor) -> Tensor:
    """Rounded to MXFP4 going forward, the identity going back."""
    return round_to_mxfp4(weights.detach()) + (weights - weights.detach())


@dataclass(frozen=True)
class Packed:
    """Documents one after the other; all tensors are [tokens]."""

    rows: Tensor  # int64, row of the stored vocabulary
    documents: Tensor  # int32, ascending
    positions: Tensor  # int64, from the document's start


def block_mask(documents: Tensor, window: int | None) -> BlockMask:
    """Causal attention inside documents, over the last `window` tokens if given."""
    tokens = documents.shape[0]
    count = tokens // MASK_BLOCK
    ends = documents.view(count, MASK_BLOCK)
    first, last = ends[:, 0], ends[:, -1]
    index = torch.arange(count, device=documents.device)
    query, key = index[:, None], index[None, :]
    some = (query >= key) & (first[:, None] <= last[None, :])
    if window is None:
        every = (query > key) & (first[None, :] == last[:, None])
    else:
        some &= query - key <= (window + MASK_BLOCK - 2) // MASK_BLOCK
        every = torch.zeros_like(some)

    def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (q >= k) & (documents[q] == documents[k])
        return seen if window is None else seen & (q - k < window)

    def ordered(mask: Tensor) -> tuple[Tensor, Tensor]:
        counts = mask.sum(dim=-1, dtype=torch.int32)
        indices = mask.to(torch.int32).argsort(dim=-1, descending=True, stable=True)
        return counts[None, None].contiguous(), indices.to(torch.int32)[None, None].contiguous()

    return BlockMask.from_kv_blocks(
        *ordered(some & ~every), *ordered(every), BLOCK_SIZE=MASK_BLOCK, mask_mod=visible
    )


@dataclass(frozen=True)
class Spans:
    """The same mask for a CPU: where documents begin and end."""

    lengths: list[int]
    window: int | None


def spans(documents: Tensor, window: int | None) -> Spans:
    """The runs of equal numbers in `documents`."""
    return Spans(torch.unique_consecutive(documents, return_counts=True)[1].tolist(), window)


def attention_by_document(q: Tensor, k: Tensor, v: Tensor, where: Spans) -> tuple[Tensor, Tensor]:
    """Attention and the log-sum-exp of its scores; q: [heads, tokens, head_dim]."""
    groups = q.shape[0] // k.shape[0]
    k, v = (x.repeat_interleave(groups, dim=0) for x in (k, v))
    mixed, sums = [], []
    parts = (x.split(where.lengths, dim=1) for x in (q, k, v))
    for queries, keys, values in zip(*parts, strict=True):
        index = torch.arange(queries.shape[1])
        distance = index[:, None] - index[None, :]
        hidden = distance < 0
        if where.window is not None:
            hidden |= distance >= where.window
        scores = (queries @ keys.transpose(1, 2)).float() * q.shape[-1] ** -0.5
        scores = scores.masked_fill(hidden, -math.inf)
        total = scores.logsumexp(dim=-1)
        mixed.append((scores - total.unsqueeze(-1)).exp().to(values.dtype) @ values)
        sums.append(total)
    return torch.cat(mixed, dim=1), torch.cat(sums, dim=1)


class DemoNetwork(nn.Module):
    """gpt-oss over a stored part of the vocabulary; the last row stands for every other id."""

    def __init__(self, config: ModelConfig, rows: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.config, self.rows, self.dtype = config, rows, dtype
        self.rounded = False  # whether the experts are in MXFP4 already and stay so
        layers, hidden, head = config.num_layers, config.hidden_size, config.head_dim
        queries, keys = config.num_heads * head, config.num_kv_heads * head
        experts, inner = config.num_experts, config.intermediate_size

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * std)

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape))

        def ones(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.ones(*shape))

        frequencies = inverse_frequencies(config.rope, head)
        self.frequencies = nn.Buffer(frequencies, persistent=False)
        multiplicity = torch.zeros(rows)
        multiplicity[-1] = math.log(config.vocab_size - (rows - 1))
        self.multiplicity = nn.Buffer(multiplicity, persistent=False)
        std = hidden**-0.5
        self.embedding = normal(rows, hidden, std=0.7)
        self.head = normal(rows, hidden, std=0.01)
        self.norm = ones(hidden)
        self.input_norm, self.post_norm = ones(layers, hidden), ones(layers, hidden)
        self.q, self.q_bias = normal(layers, queries, hidden, std=std), zeros(layers, queries)
        self.k, self.k_bias = normal(layers, keys, hidden, std=std), zeros(layers, keys)
        self.v, self.v_bias = normal(layers, keys, hidden, std=std), zeros(layers, keys)
        self.out = normal(layers, hidden, queries, std=0.1 * std)
        self.out_bias = zeros(layers, hidden)
        self.sinks = zeros(layers, config.num_heads)
        self.router = normal(layers, experts, hidden, std=std)
        self.router_bias = zeros(layers, experts)
        self.gate_up = normal(layers, experts, 2 * inner, hidden, std=std)
        self.gate_up_bias = zeros(layers, experts, 2 * inner)
        self.down = normal(layers, experts, hidden, inner, std=0.1 * std)
        self.down_bias = zeros(layers, experts, hidden)

    def hidden(self, batch: Packed) -> tuple[Tensor, Tensor]:
        """States after the last norm, [tokens, hidden], and the load-balance loss."""
        config, dtype = self.config, self.dtype
        angles = batch.positions.float().unsqueeze(-1) * self.frequencies
        cos, sin = (f(angles) * config.rope.attention_factor for f in (torch.cos, torch.sin))
        make_mask = block_mask if batch.rows.is_cuda else spans
        masks = {
            "sliding_attention": make_mask(batch.documents, config.sliding_window),
            "full_attention": make_mask(batch.documents, None),
        }
        gate_up, down = self.gate_up, self.down
        if not self.rounded:
            gate_up, down = straight_through(gate_up), straight_through(down)
        gate_up, down = gate_up.to(dtype).unbind(), down.to(dtype).unbind()
        qkv = torch.cat([self.q, self.k, self.v], dim=1).to(dtype).unbind()
        qkv_bias = torch.cat([self.q_bias, self.k_bias, self.v_bias], dim=1).to(dtype).unbind()
        out, out_bias = self.out.to(dtype).unbind(), self.out_bias.to(dtype).unbind()
        router, router_bias = self.router.to(dtype).unbind(), self.router_bias.to(dtype).unbind()
        gate_up_bias = self.gate_up_bias.to(dtype).unbind()
        down_bias = self.down_bias.to(dtype).unbind()
        norms = (self.input_norm.unbind(), self.post_norm.unbind(), self.sinks.unbind())

        x = F.embedding(batch.rows, self.embedding).to(dtype)
        balance = x.new_zeros((), dtype=torch.float32)
        for i, kind in enumerate(config.layer_types):
            h = self._rms_norm(x, norms[0][i])
            h = self._attention(
                F.linear(h, qkv[i], qkv_bias[i]), cos, sin, masks[kind], norms[2][i]
            )
            x = x + F.linear(h, out[i], out_bias[i])
            h = self._rms_norm(x, norms[1][i])
            logits = F.linear(h, router[i], router_bias[i])
            weights, loss = self._route(logits)
            x = x + self._mixture(h, weights, gate_up[i], gate_up_bias[i], down[i], down_bias[i])
            balance = balance + loss
        return self._rms_norm(x, self.norm), balance / config.num_layers

    def logits(self, states: Tensor) -> Tensor:
        """float32 [..., rows]; the last column already counts every id it stands for."""
        return F.linear(states, self.head.to(self.dtype)).float() + self.multiplicity

    def loss(
        self, batch: Packed, chosen: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Training loss; then loss and accuracy over what the model itself has to write.

        chosen: [n], positions to learn from; targets: [n], the rows that follow them; weights: [n].
        """
        states, balance = self.hidden(batch)
        logits = self.logits(states[chosen])
        losses = F.cross_entropy(logits, targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        own = (weights == 1).float()
        share = 1 / own.sum().clamp(min=1)
        right = (logits.argmax(dim=-1) == targets).float()
        return (
            loss + 0.01 * balance,
            (losses.detach() * own).sum() * share,
            (right * own).sum() * share,
        )

    def _rms_norm(self, x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(
            wide.square().mean(dim=-1, keepdim=True) + self.config.rms_norm_eps
        )
        return (wide * weight).to(x.dtype)

    def _attention(
        self, qkv: Tensor, cos: Tensor, sin: Tensor, mask: Spans | BlockMask, sinks: Tensor
    ) -> Tensor:
        """qkv: [tokens, (heads + 2 kv_heads) * head_dim] -> [tokens, heads * head_dim]."""
        config = self.config
        heads, keys = config.num_heads, config.num_kv_heads
        q, k, v = (
            qkv.unflatten(-1, (-1, config.head_dim)).transpose(0, 1).split([heads, keys, keys])
        )
        q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
        if isinstance(mask, Spans):
            mixed, lse = attention_by_document(q, k, v, mask)
        else:
            mixed, aux = flex_attention(
                *(x.unsqueeze(0).contiguous() for x in (q, k, v)),
                block_mask=mask,
                enable_gqa=True,
                return_aux=AuxRequest(lse=True),
            )
            mixed, lse = mixed[0], aux.lse[0]
        # The sink joins the softmax and adds no value: it takes its share from all the others.
        mixed = mixed * torch.sigmoid(lse - sinks[:, None]).unsqueeze(-1).to(mixed.dtype)
        return mixed.transpose(0, 1).flatten(-2)

    def _route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of all experts, [tokens, experts], 0 where not chosen; the load-balance loss."""
        count, experts = self.config.experts_per_token, self.config.num_experts
        # An expert is chosen if fewer than `count` are ahead of it: on a GPU this fuses, and topk
        # does not. Of equal logits the earlier is ahead.
        mine, other = logits.detach().unsqueeze(-1), logits.detach().unsqueeze(-2)
        index = torch.arange(experts, device=logits.device)
        ahead = (other > mine) | ((other == mine) & (index[None, :] < index[:, None]))
        chosen = ahead.sum(dim=-1) < count
        weights = logits.float().masked_fill(~chosen, -math.inf).softmax(dim=-1).to(logits.dtype)
        load = chosen.float().mean(dim=0) / count
        probability = logits.float().softmax(dim=-1).mean(dim=0)
        return weights, experts * (load * probability).sum()

    def _mixture(
        self, h: Tensor, weights: Tensor, gate_up: Tensor, gate_up_bias: Tensor,
        down: Tensor, down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """On a GPU all experts are one wide layer, those not chosen weighted by 0."""
        if not h.is_cuda:
            return self._mixture_by_expert(h, weights, gate_up, gate_up_bias, down, down_bias)
        both = F.linear(h, gate_up.flatten(0, 1), gate_up_bias.flatten())
        inner = self._gated(both.unflatten(-1, (self.config.num_experts, -1)))
        inner = inner * weights.unsqueeze(-1)
        return F.linear(inner.flatten(-2), down.transpose(0, 1).flatten(1)) + weights @ down_bias

    def _mixture_by_expert(
        self, h: Tensor, weights: Tensor, gate_up: Tensor, gate_up_bias: Tensor,
        down: Tensor, down_bias: Tensor,
    ) -> Tensor:  # fmt: skip
        """Each expert over its own tokens."""
        out = torch.zeros_like(h)
        for expert in range(self.config.num_experts):
            tokens = weights[:, expert].nonzero().squeeze(-1)
            inner = self._gated(F.linear(h[tokens], gate_up[expert], gate_up_bias[expert]))
            result = F.linear(inner, down[expert], down_bias[expert])
            out = out.index_add(0, tokens, result * weights[tokens, expert, None])
        return out

    def _gated(self, both: Tensor) -> Tensor:
        """The clamped SwiGLU of gpt-oss; gate and up alternate in the last dimension."""
        limit, alpha = self.config.swiglu_limit, self.config.swiglu_alpha
        gate, up = both.unflatten(-1, (-1, 2)).unbind(dim=-1)
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
        return gate * torch.sigmoid(alpha * gate) * (up + 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x: [heads, tokens, head_dim]; cos, sin: [tokens, head_dim / 2], float32."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)
