"""Linear layer whose rows do not depend on how many rows there are.

y = x W^T + b. Matrix libraries take other paths, with other rounding, for very few rows: one to
three per thread on what we measured. A token would then get other bits when it shares a step with
others. Rows are therefore padded with zeros to a multiple of ROWS; from there on each row is
computed the same way wherever it stands and whatever stands beside it. For one token this costs
about what starting a second thread costs; for a large matrix nothing, because reading W dominates.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 8  # 4 was enough on x86 (AVX-512, MKL and oneDNN) with 1 to 8 threads


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x: [tokens, inputs], weight: [outputs, inputs], bias: [outputs] -> [tokens, outputs]."""
    tokens = x.shape[0]
    missing = -tokens % ROWS
    if not missing:
        return torch.nn.functional.linear(x, weight, bias)
    padded = torch.nn.functional.pad(x, (0, 0, 0, missing))
    return torch.nn.functional.linear(padded, weight, bias)[:tokens]


def rows_are_independent(dtype: torch.dtype) -> bool:
    """Whether the promise above holds on this processor, tried on a few sizes in a millisecond."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(9 * ROWS, 256, generator=rng).to(dtype)
    weight = torch.randn(96, 256, generator=rng).to(dtype)
    together = linear(x, weight)
    return all(
        torch.equal(linear(x[start : start + rows], weight), together[start : start + rows])
        for rows in (1, 3, ROWS, 2 * ROWS + 1, 5 * ROWS)
        for start in (0, 2 * ROWS + 3)
    )
