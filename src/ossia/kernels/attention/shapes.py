"""The shapes that the Triton kernels of attention take."""

from __future__ import annotations

from torch import Tensor

from ossia.model.batch import LayerCache


def check_shapes(q: Tensor, cache: LayerCache) -> None:
    """Raise ValueError unless these are shapes for `triton_decode` and `triton_prefill`."""
    heads, head_dim = q.shape[1:]
    page_size, kv_heads, key_dim = cache.keys.shape[1:]
    group = heads // kv_heads
    if heads % kv_heads or group & (group - 1):
        raise ValueError(
            f"{heads} query heads for {kv_heads} key heads: the kernel needs 1, 2, 4, 8 ... a head"
        )
    if head_dim != key_dim or head_dim < 16 or head_dim & (head_dim - 1):
        raise ValueError(f"head size {head_dim}: the kernel needs a power of two from 16 up")
    if page_size & (page_size - 1):
        raise ValueError(f"pages of {page_size} tokens: the kernel needs a power of two")
