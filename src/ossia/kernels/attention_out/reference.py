"""The output projection of attention and the residual: what the fast versions must agree with.

x + mixed W^T + b.
"""

from __future__ import annotations

from torch import Tensor

from ossia.kernels.linear.reference import linear


def project_out(x: Tensor, mixed: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Add what attention found to the residual stream.

    Args:
        x: [tokens, hidden], which is not changed; the result has its shape and type.
        mixed: [tokens, heads * head_dim], the attention's output.
        weight: [hidden, heads * head_dim].
        bias: [hidden].
    """
    return x + linear(mixed, weight, bias)
