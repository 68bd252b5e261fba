"""Logits where most rows of the head are the same row, as in the bundled demo model.

Its vocabulary has 201088 tokens, of which it knows a few thousand; all others share one row. That
row is computed once and its logit copied: at batch 1 the step reads megabytes instead of 200.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ossia.kernels.lm_head.reference import Linear, Logits
from ossia.kernels.lm_head.reference import prepare_lm_head as prepare_plain

SHARED_AT_LEAST = 0.5  # of the rows, for the copy to pay


def prepare_lm_head(weight: Tensor, linear: Linear) -> Logits:
    """The function from hidden states to logits, for a head of [vocab, hidden]."""
    shared = (weight == weight[-1]).all(dim=-1)  # [vocab]
    if shared.sum() < SHARED_AT_LEAST * len(shared):
        return prepare_plain(weight, linear)
    own_ids = (~shared).nonzero().squeeze(-1)
    rows = torch.cat((weight[own_ids], weight[-1:]))  # [own + 1, hidden]

    def logits(x: Tensor) -> Tensor:
        found = linear(x, rows, None).to(torch.float32)  # [rows, own + 1]
        out = found[:, -1:].repeat(1, len(shared))
        return out.index_copy_(1, own_ids, found[:, :-1])

    return logits
