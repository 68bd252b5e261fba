"""Logits: x W^T, as float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Logits = Callable[[Tensor], Tensor]  # [rows, hidden] -> float32 [rows, vocab]
Linear = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def prepare_lm_head(weight: Tensor, linear: Linear) -> Logits:
    """The function from hidden states to logits, for a head of [vocab, hidden]."""

    def logits(x: Tensor) -> Tensor:
        return linear(x, weight, None).to(torch.float32)

    return logits
