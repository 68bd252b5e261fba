"""The output projection of attention for many tokens: the library's product, then one addition.

Bytes to move a token of gpt-oss in bfloat16, beside the weight: 8 KB of `mixed`, 5.8 KB of product
out and in again, 5.8 KB of residual in and out. A product that accumulates onto the residual would
save the 5.8 KB of reading, but torch copies the residual first, and the bias would need a pass of
its own.
"""

from __future__ import annotations

import torch
from torch import Tensor


def project_out_many(x: Tensor, mixed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.project_out` for any number of tokens; the result is a new tensor.

    Args:
        x: [tokens, hidden].
        mixed: [tokens, heads * head_dim] or [tokens, heads, head_dim], contiguous.
        weight, bias: see the reference.
    """
    projected = torch.addmm(bias, mixed.view(len(x), -1), weight.t())  # [tokens, hidden]
    return projected.add_(x)
