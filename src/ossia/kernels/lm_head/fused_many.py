"""Logits of several rows: the last norm, then a product whose results stay in float32.

Bytes to move: the head, 2 vocab hidden, 1.16 GB in gpt-oss (386 us at 3 TB/s), and 4 vocab a row:
0.8 MB. Logits rounded to bfloat16 would tie among the best, so the product must not round.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.lm_head.triton_few import MOST_ROWS_A_TILE, logits_few
from ossia.kernels.rms_norm.triton_norm import rms_norm
from ossia.kernels.thresholds import HEAD_FEW_ROWS


def logits_many(
    x: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    *,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Logits of any number of rows: float32 [rows, vocab].

    Args:
        x: [rows, hidden], the residual stream after the last layer. All tensors are contiguous.
        norm: [hidden], the weight of the last RMSNorm.
        eps: of the norm.
        weight: [vocab, hidden].
        pdl: launch our kernels before the ones ahead have ended (Hopper and later).
        out: where the logits go, contiguous; None: a new tensor.
    """
    if len(x) <= HEAD_FEW_ROWS and len(weight) % MOST_ROWS_A_TILE == 0:
        return logits_few(x, norm, eps, weight, pdl=pdl, out=out)
    return logits_library(x, norm, eps, weight, pdl=pdl, out=out)


def logits_library(
    x: Tensor,
    norm: Tensor,
    eps: float,
    weight: Tensor,
    *,
    pdl: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """The same by the library's product, whatever the number of rows."""
    normed = rms_norm(x, norm, eps, pdl=pdl)
    if out is not None:
        return torch.mm(normed, weight.t(), out_dtype=torch.float32, out=out)
    return torch.mm(normed, weight.t(), out_dtype=torch.float32)
