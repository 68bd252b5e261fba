"""Which experts each token goes to, and how much each counts: what the fast versions must do.

normed = RMSNorm(x), of x's type;  logits = normed R^T + b, in float32;  the k largest logits choose
the experts, softmax over those k alone gives the shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ossia.kernels.linear.reference import linear
from ossia.kernels.rms_norm.reference import rms_norm


@dataclass(frozen=True, slots=True)
class Routed:
    """What the experts need to know of a step's tokens."""

    normed: Tensor  # [tokens, hidden], of the residual stream's type: what the experts read
    shares: Tensor  # float32 [tokens, k], the weights of the mixture; each row sums to 1
    chosen: Tensor  # int32 [tokens, k], expert numbers, the largest logit first


def route(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    k: int,
) -> Routed:
    """Norm the residual stream and choose k experts for each token.

    Of experts with equal logits the one with the lower number counts as larger.

    Args:
        x: [tokens, hidden].
        norm: [hidden], the weight of the RMSNorm before the experts.
        weight: [experts, hidden].
        bias: [experts].
        eps: of the norm.
        k: experts a token.
    """
    normed, logits = route_logits(x, norm, weight, bias, eps)
    # A stable sort, because topk leaves open which of equal logits it takes.
    top, chosen = (both[:, :k] for both in logits.sort(dim=-1, descending=True, stable=True))
    return Routed(normed, top.softmax(dim=-1), chosen.to(torch.int32))


def route_logits(
    x: Tensor, norm: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The first half of `route`, all that a step of one token needs.

    Args:
        x, norm, weight, bias, eps: as for `route`.

    Returns:
        normed: [tokens, hidden], of x's type.
        logits: float32 (float64 if x is) [tokens, experts], from `normed` as rounded.
    """
    normed = rms_norm(x, norm, eps)
    wide = torch.promote_types(x.dtype, torch.float32)
    return normed, linear(normed.to(wide), weight.to(wide), bias.to(wide))
