"""Linear layer: y = x W^T + b."""

from __future__ import annotations

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: [tokens, inputs], weight: [outputs, inputs], bias: [outputs] -> [tokens, outputs]."""
    return torch.nn.functional.linear(x, weight, bias)
