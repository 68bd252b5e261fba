"""The experts' answers become one: x + sum_j shares[t, j] y[t k + j], summed in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.rms_norm.reference import rms_norm


def combine(
    x: Tensor, y: Tensor, shares: Tensor, next_norm: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Tensor | None]:
    """Add the weighted mean of the chosen experts to the residual stream.

    Args:
        x: [tokens, hidden], the residual stream.
        y: [tokens * k, hidden], in order of pairs.
        shares: float32 [tokens, k].
        next_norm: [hidden], the weight of the RMSNorm that reads the result next, if any.
        eps: of that RMSNorm.

    Returns:
        The new residual stream, [tokens, hidden] like x, and its norm or None.
    """
    tokens, k = shares.shape
    wide = torch.promote_types(x.dtype, torch.float32)
    parts = y.view(tokens, k, -1).to(wide)
    total = x.to(wide)
    for j in range(k):
        total = total + shares[:, j, None].to(wide) * parts[:, j]
    out = total.to(x.dtype)
    return out, None if next_norm is None else rms_norm(out, next_norm, eps)
