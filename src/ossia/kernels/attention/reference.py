"""Paged attention with sinks and a window, one sequence at a time: what the others must agree with.

out[t, h] = sum_j p[j] * v[j],  p = softmax over (scale * q[t, h] . k[j] for visible j, and sink[h])
with the sink's share dropped. Key j is visible from position i if j <= i, and i - j < window.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from ossia.kernels.attention.interface import Attend, write_cache
from ossia.model.batch import LayerCache, PagedBatch


def prepare_attention(
    paged: PagedBatch, page_size: int, kv_heads: int, window: int | None
) -> Attend:
    """See `interface.py`. The sizes are read from the cache."""
    del page_size, kv_heads

    def attend(
        q: Tensor, k: Tensor, v: Tensor, cache: LayerCache, sinks: Tensor, scale: float
    ) -> Tensor:
        write_cache(cache, paged, k, v)
        out = torch.empty_like(q)
        starts = paged.query_starts.tolist()
        lengths = paged.kv_lens.tolist()
        firsts = paged.first_positions.tolist()
        for s, (begin, end) in enumerate(pairwise(starts)):
            keys, values = (
                pool[paged.page_table[s].long()].flatten(0, 1)[: lengths[s] - firsts[s]]
                for pool in (cache.keys, cache.values)
            )  # [keys, kv_heads, head_dim] each
            at = torch.arange(lengths[s] - (end - begin), lengths[s], device=q.device)
            distance = at[:, None] - torch.arange(firsts[s], lengths[s], device=q.device)
            visible = distance >= 0  # [queries, keys]
            if window is not None:
                visible &= distance < window
            out[begin:end] = _attend_one(q[begin:end], keys, values, sinks, visible, scale)
        return out

    return attend


def _attend_one(
    q: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, visible: Tensor, scale: float
) -> Tensor:
    heads, kv_heads = q.shape[1], keys.shape[1]
    wide = torch.promote_types(q.dtype, torch.float32)
    keys = keys.to(wide).repeat_interleave(heads // kv_heads, dim=1)  # [keys, heads, head_dim]
    values = values.to(wide).repeat_interleave(heads // kv_heads, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q.to(wide), keys) * scale
    scores = scores.masked_fill(~visible, float("-inf"))
    sink_scores = sinks.to(wide)[:, None, None].expand(-1, scores.shape[1], 1)
    shares = torch.cat((scores, sink_scores), dim=-1).softmax(dim=-1)[..., :-1]
    return torch.einsum("hqk,khd->qhd", shares, values).to(q.dtype)
