"""What one step feeds to the network: a flat run of tokens from many sequences, and their pages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class PagedBatch:
    """Where the sequences of a step keep their keys and values, for one pool (full or window).

    The keys of sequence s are those at positions first_positions[s] .. kv_lens[s] - 1, found in
    the pages of its row: position p lies in page_table[s, (p - first_positions[s]) // page_size],
    at offset (p - first_positions[s]) % page_size. first_positions is 0 in the full pool and a
    multiple of the page size in the window pool, whose earlier pages were freed.
    """

    slots: Tensor  # int64 [tokens]: page * page_size + offset, where each new key is written
    page_table: Tensor  # int32 [seqs, pages]; unused entries are 0
    first_positions: Tensor  # int32 [seqs]
    # int32 [seqs]: positions known after this step, from the sequence's start; 0: tokens of padding
    kv_lens: Tensor
    query_starts: (
        Tensor  # int32 [seqs + 1]: tokens of sequence s are query_starts[s] .. [s + 1] - 1
    )
    max_query_len: int
    max_kv_len: int
    num_decodes: int = 0  # the first sequences, as many as are known to have one token each


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """One step for the network."""

    token_ids: Tensor  # int64 [tokens]
    positions: Tensor  # int64 [tokens]
    full: PagedBatch
    window: PagedBatch
    logit_rows: Tensor  # int64 [rows]: the tokens after which a next token is wanted


@dataclass(frozen=True, slots=True)
class LayerCache:
    """Keys and values of one layer."""

    keys: Tensor  # [pages, page_size, kv_heads, head_dim]
    values: Tensor  # [pages, page_size, kv_heads, head_dim]
