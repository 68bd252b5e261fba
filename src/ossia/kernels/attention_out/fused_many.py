"""The output projection of attention for many tokens: the library's product, then one addition.

Bytes to move a token of gpt-oss in bfloat16, beside the weight: 8 KB of `mixed`, 5.8 KB of product
out and in again, 5.8 KB of residual in and out. A product that accumulates onto the residual would
save the 5.8 KB of reading, but torch copies the residual first, and the bias would need a pass of
its own.

Up to some hundred tokens what counts is the time between kernels: with programmatic dependent
launch the addition is a kernel of ours, which starts while the product ends, and lets the router
start while it ends.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.attention_out.triton_few import add_residual
from ossia.kernels.thresholds import OUT_ADD_TOKENS


def project_out_many(
    x: Tensor, mixed: Tensor, weight: Tensor, bias: Tensor, *, pdl: bool = False
) -> Tensor:
    """`reference.project_out` for any number of tokens; the result is a new tensor.

    Args:
        x: [tokens, hidden]. All tensors are contiguous.
        mixed: [tokens, heads * head_dim] or [tokens, heads, head_dim].
        weight, bias: see the reference.
        pdl: launch the addition before the product has ended (Hopper and later).
    """
    tokens = len(x)
    if pdl and tokens <= OUT_ADD_TOKENS:
        projected = torch.mm(mixed.view(tokens, -1), weight.t())  # [tokens, hidden]
        out = torch.empty_like(x)
        add_residual(projected[None], x, bias, out, pdl=True)
        return out
    projected = torch.addmm(bias, mixed.view(tokens, -1), weight.t())
    return projected.add_(x)
