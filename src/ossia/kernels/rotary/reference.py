"""Rotary embedding: the two halves of a head are the coordinates of points that are turned.

first' = first * cos - second * sin,  second' = second * cos + first * sin, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every head of every token to the token's position.

    Args:
        x: [tokens, heads, head_dim], any float type; the result has the same.
        cos: float32 [tokens, head_dim / 2].
        sin: float32 [tokens, head_dim / 2].
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    first, second = x.to(wide).chunk(2, dim=-1)  # [tokens, heads, head_dim / 2] each
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
