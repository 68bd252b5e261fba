"""Mixture of experts: each token goes through the few experts its router likes best.

logits = x R^T + b; the top k, softmax over those k alone gives the shares.
expert(x) = D (clamp(g, max 7) * sigmoid(1.702 clamp(g)) * (clamp(u, -7, 7) + 1)) + d,
with g and u the even and odd columns of G x + e. The output is the sum of shares * expert(x).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.model.weights import ExpertWeights
from ossia.mxfp4 import Mxfp4Tensor, unpack


def route(logits: Tensor, experts_per_token: int) -> tuple[Tensor, Tensor]:
    """Choose experts from router logits, [tokens, experts].

    Returns:
        shares: float32 or wider [tokens, experts_per_token], each row sums to 1.
        chosen: int64 [tokens, experts_per_token], the experts' numbers.
    """
    top, chosen = logits.topk(experts_per_token, dim=-1)
    wide = torch.promote_types(logits.dtype, torch.float32)
    return top.to(wide).softmax(dim=-1), chosen


def swiglu(gate_up: Tensor, alpha: float, limit: float) -> Tensor:
    """gate_up: [..., 2 * intermediate], gate in even columns -> [..., intermediate]."""
    wide = torch.promote_types(gate_up.dtype, torch.float32)
    gate = gate_up[..., ::2].to(wide).clamp(max=limit)
    up = gate_up[..., 1::2].to(wide).clamp(min=-limit, max=limit)
    return (gate * torch.sigmoid(alpha * gate) * (up + 1)).to(gate_up.dtype)


def run_experts(
    x: Tensor, shares: Tensor, chosen: Tensor, experts: ExpertWeights, alpha: float, limit: float
) -> Tensor:
    """Apply the chosen experts and add up their outputs, one expert after the other.

    Args:
        x: [tokens, hidden]; the result has its type and shape.
        shares: [tokens, experts_per_token].
        chosen: int64 [tokens, experts_per_token].
        experts: packed ones are unpacked one at a time.
        alpha: of the gate's sigmoid.
        limit: clamp of gate and up.
    """
    out = torch.zeros(x.shape, dtype=shares.dtype, device=x.device)
    for expert in sorted(set(chosen.flatten().tolist())):
        tokens, place = (chosen == expert).nonzero(as_tuple=True)
        gate_up, down = (
            matrix(experts.gate_up, expert, x.dtype),
            matrix(experts.down, expert, x.dtype),
        )
        h = torch.nn.functional.linear(x[tokens], gate_up, experts.gate_up_bias[expert])
        h = swiglu(h, alpha, limit)
        h = torch.nn.functional.linear(h, down, experts.down_bias[expert])
        out.index_add_(0, tokens, h * shares[tokens, place, None])
    return out.to(x.dtype)


def matrix(weight: Mxfp4Tensor | Tensor, expert: int, dtype: torch.dtype) -> Tensor:
    """The matrix of one expert, unpacked if need be."""
    if isinstance(weight, Mxfp4Tensor):
        return unpack(weight[expert], dtype)
    return weight[expert]
