"""Sampling one of few tokens, with numpy: a mask of a grammar often leaves no more than that.

The same steps as in `sampler.py`, by sorting: for some hundred numbers that is faster than starting
one kernel after the other.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ossia.engine.randomness import uniform
from ossia.engine.sampling_state import SamplingState

LOG2_E = math.log2(math.e)


def choose(x: NDArray[np.float32], state: SamplingState) -> tuple[int, float]:
    """The index that is drawn from logits x [n], n >= 1, and the largest of them."""
    best = int(x.argmax())  # the first one that is not a number, if there is one
    top = float(x[best])
    if state.greedy or not math.isfinite(top):
        return best, top
    weights = np.exp2((x.astype(np.float64) - top) * (LOG2_E / state.params.temperature))
    weights[x < _least(x, weights, state)] = 0.0
    sums = weights.cumsum()
    # Rounding may lift the target up to the last sum, which nothing exceeds.
    target = min(
        uniform(state.seed, state.generated) * float(sums[-1]), float(np.nextafter(sums[-1], 0.0))
    )
    return int(sums.searchsorted(target, side="right")), top


def _least(x: NDArray[np.float32], weights: NDArray[np.float64], state: SamplingState) -> float:
    """The least logit that top_k, top_p and min_p leave; weights [n] are 1 for the largest."""
    params = state.params
    least = -math.inf
    if not params.top_k and params.top_p >= 1.0 and params.min_p <= 0.0:
        return least
    order = x.argsort()[::-1]
    if 0 < params.top_k < len(x):
        least = float(x[order[params.top_k - 1]])
    if params.top_p < 1.0:
        mass = np.where(x[order] >= least, weights[order], 0.0).cumsum()
        reached = min(int(mass.searchsorted(params.top_p * mass[-1])), len(x) - 1)
        least = max(least, float(x[order[reached]]))
    if params.min_p > 0.0:
        enough = int(np.count_nonzero(weights >= params.min_p))
        least = max(least, float(x[order[enough - 1]]))
    return least
