"""What the sampling kernels are told about a batch, and how it is laid out in one buffer.

All that changes from step to step goes to the device in one copy: int32 [WORDS_A_ROW * stride],
one field after the other, each `stride` rows long. The stride is a multiple of 16, so that every
field is aligned alike and a kernel is compiled once for all numbers of rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

WORDS_A_ROW = 8  # int32; draws take two


@dataclass(frozen=True, slots=True)
class Rows:
    """Parameters of each row, on the device of the logits.

    A row that takes the largest logit has a negative draw, a scale of 1 and no filters.
    """

    draws: Tensor  # float64 [rows], in [0, 1); negative: take the largest
    scales: Tensor  # float32 [rows], log2(e) / temperature
    masks: Tensor  # int32 [rows], row in the table of masks; -1: any token
    forced: Tensor  # int32 [rows], the token, whatever the logits are; -1: none
    top_ks: Tensor  # int32 [rows]; 0: no limit
    top_ps: Tensor  # float32 [rows]; 1: no limit
    min_ps: Tensor  # float32 [rows]; 0: no limit
    filters: bool  # some row has one of the three
    searches: bool  # some row has a top_k or a top_p


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes of single logits, grouped by row; see `engine/sampler.py` for their order.

    `tokens` and `values` list, for one row after the other: tokens seen with the times they were
    generated, tokens with their bias, and stop tokens, whose values are not used.
    """

    rows: Tensor  # int32 [edited, 8]: row, begin, end of seen, of biases, of stops, 0, 0, 0
    penalties: Tensor  # float32 [edited, 4]: repetition, frequency, presence, 0
    tokens: Tensor  # int32 [n], distinct within each of a row's three lists
    values: Tensor  # float32 [n]


def stride_of(rows: int) -> int:
    """Rows that a buffer for `rows` rows has room for."""
    return -(-rows // 16) * 16


def unpack(
    buffer: Tensor, rows: int, *, filters: bool, searches: bool, stride: int | None = None
) -> Rows:
    """The fields in int32 [WORDS_A_ROW * stride], as views; the stride is `stride_of(rows)`."""
    stride = stride or stride_of(rows)
    floats = buffer.view(torch.float32)

    def field(values: Tensor, index: int) -> Tensor:
        return values[index * stride : index * stride + rows]

    return Rows(
        draws=buffer[: 2 * stride].view(torch.float64)[:rows],
        scales=field(floats, 2),
        top_ks=field(buffer, 3),
        top_ps=field(floats, 4),
        min_ps=field(floats, 5),
        masks=field(buffer, 6),
        forced=field(buffer, 7),
        filters=filters,
        searches=searches,
    )


def new_result(rows: int, device: torch.device) -> Tensor:
    """int32 [2, stride_of(rows)] to be filled by `sample_rows`.

    Line 0 gets the tokens, line 1 the bits of the largest allowed logit (float32), which is NaN
    where something allowed is not finite and -inf where nothing is allowed.
    """
    return torch.empty((2, stride_of(rows)), dtype=torch.int32, device=device)
