"""Which tokens may come next, in the two forms that are cheap to apply.

A grammar gives one bit a token. Some masks allow few tokens (the rest of a keyword, a number) and
are kept as the tokens they allow; the others allow most (free text, a string of JSON) and are kept
as the tokens they forbid. Equal masks are one object: a conversation meets the same few states
again and again, and unpacking 201,088 bits costs more than computing them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ossia.engine.vocabulary import FIRST_SPECIAL, TOKENIZER_SIZE

MASK_WORDS = TOKENIZER_SIZE // 32
_ONLY_UP_TO = TOKENIZER_SIZE // 2  # tokens


@dataclass(frozen=True, slots=True, eq=False)
class Only:
    """These tokens and no others."""

    tokens: NDArray[np.int64]  # [n], ascending, n >= 1
    ids: Tensor  # the same numbers
    forced: int | None  # the token, if there is just one
    words: NDArray[np.int32] | None = None  # the bits it was made of, if any


@dataclass(frozen=True, slots=True, eq=False)
class AllBut:
    """All tokens but these."""

    ids: Tensor  # int64 [n], ascending
    free_text: bool  # any ordinary token, or a special one that ends the text
    words: NDArray[np.int32] | None = None  # the bits it was made of, if any


@dataclass(frozen=True, slots=True)
class Nothing:
    """No token: what should have said which ones failed."""

    reason: str  # a sentence


Mask = Only | AllBut | Nothing


def only(*tokens: int) -> Only:
    """A mask of some given tokens."""
    return _only(np.array(sorted(tokens), dtype=np.int64))


def mask_of(words: NDArray[np.int32]) -> Only | AllBut:
    """The mask of int32 [MASK_WORDS]; bit i of word w allows token 32 * w + i, at least one is set.

    The words are kept, not copied.
    """
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)
    if int(np.count_nonzero(bits)) <= _ONLY_UP_TO:
        return _only(np.flatnonzero(bits), words)
    # Where no special token is allowed the text may not end yet, so the next state is another one.
    free_text = bool(bits[:FIRST_SPECIAL].all() and bits[FIRST_SPECIAL:].any())
    return AllBut(torch.from_numpy(np.flatnonzero(~bits)), free_text, words)


def words_of(mask: Only | AllBut) -> NDArray[np.int32]:
    """The bits of a mask, int32 [MASK_WORDS]; do not change them."""
    if mask.words is not None:
        return mask.words
    only_these = isinstance(mask, Only)
    bits = np.full(TOKENIZER_SIZE, not only_these, dtype=np.uint8)
    bits[mask.ids.numpy()] = only_these
    return np.packbits(bits, bitorder="little").view(np.int32)


def _only(tokens: NDArray[np.int64], words: NDArray[np.int32] | None = None) -> Only:
    forced = int(tokens[0]) if len(tokens) == 1 else None
    return Only(tokens, torch.from_numpy(tokens), forced, words)


class MaskCache:
    """Masks by their bits, the least recently used ones dropped. Safe to use from many threads."""

    def __init__(self, capacity: int = 512) -> None:
        """A mask takes 25 kB, and up to 800 kB more for its ids."""
        self._capacity = capacity
        self._masks: OrderedDict[bytes, Only | AllBut] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, words: NDArray[np.int32]) -> Only | AllBut:
        """The mask of these bits, made if it is new."""
        key = words.tobytes()
        with self._lock:
            mask = self._masks.get(key)
            if mask is not None:
                self._masks.move_to_end(key)
                return mask
        mask = mask_of(np.frombuffer(key, dtype=np.int32))
        with self._lock:
            mask = self._masks.setdefault(key, mask)
            if len(self._masks) > self._capacity:
                self._masks.popitem(last=False)
        return mask
