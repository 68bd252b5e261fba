"""What every attention backend offers: a function that prepares a step, for all layers of a pool.

`prepare(paged, page_size, kv_heads, window)` works out once what depends on the step alone (masks,
places in the cache) and returns `attend(q, k, v, cache, sinks, scale)`, which each layer of the
pool calls: it writes the new keys and values into the cache and attends over what that then holds.
A sequence with kv_lens 0 is padding, whatever its number of tokens: their rows become zero.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ossia.model.batch import LayerCache, PagedBatch

# q [tokens, heads, head_dim], k and v [tokens, kv_heads, head_dim], cache, sinks [heads], and what
# multiplies the scores -> [tokens, heads, head_dim], of q's type
Attend = Callable[[Tensor, Tensor, Tensor, LayerCache, Tensor, float], Tensor]
# the step, tokens in a page, kv_heads, how many keys a token sees, itself included (None: all)
PrepareAttention = Callable[[PagedBatch, int, int, int | None], Attend]


def write_cache(cache: LayerCache, paged: PagedBatch, k: Tensor, v: Tensor) -> None:
    """Store new keys and values, [tokens, kv_heads, head_dim] each, in their slots."""
    cache.keys.flatten(0, 1).index_copy_(0, paged.slots, k.to(cache.keys.dtype))
    cache.values.flatten(0, 1).index_copy_(0, paged.slots, v.to(cache.values.dtype))
