"""What the sampling kernels are told of each row, built with little work a row.

What never changes in a sequence is packed once, into a record of its own; a step joins the records
of its rows and computes the rest of them with numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ossia.engine.sample_few import LOG2_E
from ossia.engine.sampling_state import SamplingState
from ossia.kernels.sampling.interface import WORDS_A_ROW, stride_of

GREEDY, EDITS, LOGPROBS = 1, 2, 4  # flags

_RECORD = np.dtype(
    [
        ("start", np.uint64),  # of the sequence of random numbers
        ("scale", np.float32),
        ("top_k", np.int32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("flags", np.int32),
        ("min_tokens", np.int32),
    ]
)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class HostRows:
    """The rows of one step.

    Attributes:
        flags: int32 [rows], the sum of GREEDY, EDITS, LOGPROBS.
        stop_is_masked: bool [rows], see `SamplingState`.
        filters: whether some row has a top_k, top_p or min_p.
        searches: whether some row has a top_k or a top_p.
    """

    def __init__(self, states: Sequence[SamplingState], columns: int) -> None:
        """`columns` is the number of tokens to choose from: a larger top_k is no limit."""
        count = len(states)
        records = np.frombuffer(b"".join([s.packed or pack(s) for s in states]), dtype=_RECORD)
        positions = np.fromiter((s.generated for s in states), dtype=np.int64, count=count)
        self.flags: NDArray[np.int32] = records["flags"]
        self.stop_is_masked: NDArray[np.bool_] = positions < records["min_tokens"]
        self.masks = np.full(count, -1, dtype=np.int32)
        self.forced = np.full(count, -1, dtype=np.int32)
        self._draws = np.where(self.flags & GREEDY, -1.0, draws(records["start"], positions))
        self._top_ks = np.where(records["top_k"] < columns, records["top_k"], 0)
        self._records = records
        self.searches = bool((self._top_ks > 0).any() or (records["top_p"] < 1.0).any())
        self.filters = self.searches or bool((records["min_p"] > 0.0).any())

    def write(self, buffer: NDArray[np.int32]) -> None:
        """Fill int32 [WORDS_A_ROW * stride_of(rows)], laid out as `interface.unpack` reads it."""
        count = len(self.flags)
        stride = stride_of(count)
        buffer[: 2 * stride].view(np.float64)[:count] = self._draws
        fields = buffer.reshape(WORDS_A_ROW, stride)[:, :count]
        floats = fields.view(np.float32)
        floats[2] = self._records["scale"]
        fields[3] = self.masks
        fields[4] = self.forced
        fields[5] = self._top_ks
        floats[6] = self._records["top_p"]
        floats[7] = self._records["min_p"]


def pack(state: SamplingState) -> bytes:
    """The record of a sequence, which is remembered by its state."""
    params = state.params
    flags = GREEDY * state.greedy + EDITS * state.edits_logits
    flags += LOGPROBS * (params.logprobs is not None)
    start = _mix(np.array([state.seed % 2**64], dtype=np.uint64) + _GOLDEN)[0]
    min_tokens = min(params.min_tokens, 2**31 - 1)
    if state.greedy:
        values = (start, 1.0, 0, 1.0, 0.0, flags, min_tokens)
    else:
        top_k = min(params.top_k, 2**31 - 1)
        scale = LOG2_E / params.temperature
        values = (start, scale, top_k, params.top_p, params.min_p, flags, min_tokens)
    state.packed = np.array(values, dtype=_RECORD).tobytes()
    return state.packed


def draws(starts: NDArray[np.uint64], positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """`randomness.uniform` of many sequences, whose seeds are mixed already."""
    bits = _mix(starts + _GOLDEN * (positions.astype(np.uint64) + np.uint64(1)))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
