"""Queries, keys and values of a layer: what the fast versions must agree with.

h = RMSNorm(x) W^T + b;  queries and keys are turned to their positions;  keys and values go to the
cache. x, h and the normed x are of the activations' type; norm and rotation compute in float32.
"""

from __future__ import annotations

from torch import Tensor

from ossia.kernels.linear.reference import linear
from ossia.kernels.rms_norm.reference import rms_norm
from ossia.kernels.rotary.reference import rotate
from ossia.model.batch import LayerCache


def project_qkv(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    positions: Tensor,
    slots: Tensor,
    cos_sin: Tensor,
    cache: LayerCache,
) -> Tensor:
    """Write the keys and values of every token into `cache`, return its queries.

    Args:
        x: [tokens, hidden], the residual stream; the result has its type.
        norm: [hidden], the weight of the RMSNorm before attention.
        weight: [(heads + 2 * kv_heads) * head_dim, hidden], queries first, then keys, values.
        bias: [(heads + 2 * kv_heads) * head_dim].
        eps: of the norm.
        positions: int64 [tokens], rows of `cos_sin`.
        slots: int64 [tokens], page * page_size + offset: where keys and values are written.
        cos_sin: float32 [max_positions, head_dim], cosines then sines of each pair of dimensions
            (`RotaryEmbedding.table`).
        cache: the layer's; its shape says kv_heads and head_dim.

    Returns:
        Rotated queries [tokens, heads, head_dim].
    """
    kv_heads, head_dim = cache.keys.shape[2:]
    rows = linear(rms_norm(x, norm, eps), weight, bias)
    heads = rows.view(len(x), -1, head_dim)  # [tokens, heads + 2 * kv_heads, head_dim]
    cos, sin = cos_sin.index_select(0, positions).chunk(2, dim=-1)
    turned = rotate(heads[:, :-kv_heads], cos, sin)
    keys, values = turned[:, -kv_heads:], heads[:, -kv_heads:]
    cache.keys.flatten(0, 1).index_copy_(0, slots, keys.to(cache.keys.dtype))
    cache.values.flatten(0, 1).index_copy_(0, slots, values.to(cache.values.dtype))
    return turned[:, :-kv_heads]
