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
from ossia.kernels.sampling.interface import WORDS_A_ROW

# Flags
GREEDY, EDITS, LOGPROBS = 1, 2, 4
HOLDS = 8  # it has min_tokens
FILTERS = 16  # it has a top_k, top_p or min_p
SEARCHES = 32  # it has a top_k or a top_p

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
)  # the fields from scale to min_p are in the order of `interface.unpack`
_WORDS = _RECORD.itemsize // 4
_START, _TOP_K, _TOP_P, _MIN_P, _FLAGS, _MIN_TOKENS = (
    0,
    3,
    4,
    5,
    6,
    7,
)  # of them, where the fields are
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class HostRows:
    """The rows of one step.

    Attributes:
        flags: int32 [rows], sums of the flags above.
        flags_of_any: the flags that some row has.
        masks: int32 [rows], to be filled: row in the table of masks; -1: any token.
        forced: int32 [rows], to be filled: the token; -1: none.
        filters: whether some row has a top_k, top_p or min_p.
        searches: whether some row has a top_k or a top_p.
    """

    def __init__(self, states: Sequence[SamplingState], columns: int) -> None:
        """`columns` is the number of tokens to choose from: a larger top_k is no limit."""
        count = len(states)
        packed = b"".join([s.packed or pack(s) for s in states])
        words = np.frombuffer(packed, dtype=np.int32).reshape(count, _WORDS)
        self._words = words
        self._positions = np.array([s.generated for s in states], dtype=np.int64)
        self.flags: NDArray[np.int32] = words[:, _FLAGS]
        self.flags_of_any = int(np.bitwise_or.reduce(self.flags))
        self._choices = np.full((2, count), -1, dtype=np.int32)
        self.masks, self.forced = self._choices
        self.filters = bool(self.flags_of_any & FILTERS)
        self.searches = bool(self.flags_of_any & SEARCHES)
        self._top_ks: NDArray[np.int32] | None = None
        if self.searches:
            top_ks = words[:, _TOP_K]
            self._top_ks = np.where(top_ks < columns, top_ks, 0)
            top_ps = words[:, _TOP_P].view(np.float32)
            self.searches = bool((self._top_ks > 0).any() or (top_ps < 1.0).any())
            min_ps = words[:, _MIN_P].view(np.float32)
            self.filters = self.searches or bool((min_ps > 0.0).any())

    @property
    def stop_is_masked(self) -> NDArray[np.bool_]:
        """[rows], see `SamplingState`."""
        return self._positions < self._words[:, _MIN_TOKENS]

    def write(self, buffer: NDArray[np.int32]) -> None:
        """Fill int32 [WORDS_A_ROW * stride], laid out as `interface.unpack` reads it."""
        count = len(self.flags)
        stride = len(buffer) // WORDS_A_ROW
        numbers: NDArray[np.float64] = buffer[: 2 * stride].view(np.float64)
        starts = self._words.view(np.uint64)[:, _START]
        numbers[:count] = draws(starts, self._positions)
        if self.flags_of_any & GREEDY:
            numbers[:count][self.flags & GREEDY != 0] = -1.0
        fields = buffer.reshape(WORDS_A_ROW, stride)[:, :count]
        fields[2:6] = self._words[:, 2:6].T
        if self._top_ks is not None:
            fields[3] = self._top_ks
        fields[6:8] = self._choices


def pack(state: SamplingState) -> bytes:
    """The record of a sequence, which is remembered by its state."""
    params = state.params
    flags = GREEDY * state.greedy + EDITS * state.edits_logits
    flags += LOGPROBS * (params.logprobs is not None)
    start = _mix(np.array([state.seed % 2**64], dtype=np.uint64) + _GOLDEN)[0]
    flags += HOLDS * (params.min_tokens > 0)
    min_tokens = min(params.min_tokens, 2**31 - 1)
    if state.greedy:
        values = (start, 1.0, 0, 1.0, 0.0, flags, min_tokens)
    else:
        top_k = min(params.top_k, 2**31 - 1)
        scale = LOG2_E / params.temperature
        searches = params.top_k > 0 or bool(np.float32(params.top_p) < 1.0)
        flags += SEARCHES * searches + FILTERS * (searches or params.min_p > 0.0)
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
