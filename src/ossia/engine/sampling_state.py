"""What sampling remembers of one sequence: its parameters, its seed, its grammar, its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ossia.engine.follower import Follower
from ossia.engine.masks import Mask
from ossia.engine.messages import PhaseCut
from ossia.sampling import SamplingParams

GREEDY_BELOW = 1e-5  # temperatures below this would overflow the logits; they mean greedy


class SamplingState:
    """One sequence's side of the sampler. Survives preemption; `record` each token it gets."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        seed: int,
        prompt: Sequence[int],
        stop_token_ids: Sequence[int],
        follower: Follower | None = None,
    ) -> None:
        """`stop_token_ids` are all tokens that stop this sequence, the model's own included."""
        self.params = params
        self.seed = seed
        self.stop_token_ids = tuple(stop_token_ids)
        self.follower = follower  # None: any token
        self.generated = 0  # tokens
        self.greedy = params.temperature < GREEDY_BELOW
        self.packed: bytes | None = (
            None  # what never changes, as `device_sampling_rows.py` packs it
        )
        self.counts: TokenCounts | None = None
        if params.repetition_penalty != 1.0:
            self.counts = TokenCounts(prompt)
        elif params.presence_penalty or params.frequency_penalty:
            self.counts = TokenCounts(())

    def record(self, token: int) -> PhaseCut | None:
        """A token was generated; why a phase of the answer is cut short here, if it is."""
        self.generated += 1
        if self.counts is not None:
            self.counts.add(token)
        return None if self.follower is None else self.follower.record(token)

    @property
    def stop_is_masked(self) -> bool:
        """Whether `min_tokens` forbids stop tokens at this position."""
        return self.generated < self.params.min_tokens

    @property
    def edits_logits(self) -> bool:
        """Whether penalties or biases change the logits."""
        return self.counts is not None or bool(self.params.logit_bias)

    @property
    def is_endless(self) -> bool:
        """Whether the sequence repeats itself and should be ended."""
        return self.follower is not None and self.follower.endless

    @property
    def mask(self) -> Mask | None:
        """What the grammar allows next, once it is computed; None without a grammar."""
        return None if self.follower is None else self.follower.mask


class TokenCounts:
    """How often each token was generated, as arrays that grow in place."""

    def __init__(self, prompt: Sequence[int]) -> None:
        """Tokens of `prompt` are listed too, with a count of 0."""
        distinct = np.unique(np.asarray(prompt, dtype=np.int64))
        self._size = len(distinct)
        self._ids = np.zeros(max(64, 2 * self._size), dtype=np.int64)
        self._ids[: self._size] = distinct
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._index = {int(token): i for i, token in enumerate(distinct)}

    @property
    def ids(self) -> NDArray[np.int64]:
        """Distinct token ids [seen]."""
        return self._ids[: self._size]

    @property
    def counts(self) -> NDArray[np.float32]:
        """Times each of `ids` was generated [seen]."""
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        index = self._index.get(token)
        if index is None:
            if self._size == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            index = self._index[token] = self._size
            self._ids[index] = token
            self._size += 1
        self._counts[index] += 1.0
