"""Notices that text repeats itself word for word. Pure Python; knows token ids only.

A loop is a block of 1 to 512 tokens that has been repeated without any change, and nothing but
it, for long enough that a person would say it will not stop:

- at least 4 times, and over at least 192 tokens. A refrain, a list item that is written three
  times or a quotation that is checked against itself stays below this. Counting, tables and code
  do not repeat: a number or a name in each line differs, and one token that differs ends the run;
- over at least 384 tokens where the block has fewer than 16 tokens, as equal short lines, "- [ ]"
  or rows of a matrix have;
- over at least 1024 tokens where the block has at most 4 different tokens: a picture or a grid
  of zeros is data, and has its end (a loop of "!!!" does not, and is found then).

A loop is reported at most `EVERY` tokens after it got that long. A detector with more patience
waits for as many times those tokens and repetitions.
"""

from __future__ import annotations

MAX_PERIOD = 512  # tokens of the longest block that is looked for
REPETITIONS = 4
LEAST = 192  # tokens of repetition
SHORT_PERIOD, LEAST_SHORT = 16, 384
FEW_DIFFERENT, LEAST_FEW = 4, 1024
EVERY = 16  # tokens between two searches

_PROBE = 64  # tokens at the end that must have occurred before; at most LEAST - LEAST / REPETITIONS
_KEPT = max(REPETITIONS * MAX_PERIOD, LEAST_FEW)


class LoopDetector:
    """Fed with the tokens of one text, in order.

    Tokens are kept as the characters of a string, one each, because searching a string is fast:
    a token costs a fraction of a microsecond, and at most about 30, in a long run of one token.
    """

    def __init__(self, patience: int = 1) -> None:
        self._patience = patience
        self._text = ""  # the last tokens
        self._new: list[int] = []  # tokens that are not yet in the text

    def add(self, token: int) -> bool:
        """Whether the text is in a loop, once this token is part of it."""
        self._new.append(token)
        if len(self._new) < EVERY:
            return False
        self._text = (self._text + "".join(map(chr, self._new)))[-_KEPT * self._patience :]
        self._new.clear()
        return self._repeats()

    def clear(self) -> None:
        """Begin another text."""
        self._text = ""
        self._new.clear()

    def _repeats(self) -> bool:
        text, patience = self._text, self._patience
        probe = text[-_PROBE:]
        last = len(text) - len(probe)  # where the probe stands
        first = max(0, last - MAX_PERIOD)
        found = text.rfind(probe, first, len(text) - 1) if len(text) >= LEAST * patience else -1
        while found >= 0:
            period = last - found
            if _has_period(text, period, patience * needed(period, FEW_DIFFERENT + 1)):
                block = text[-period:]
                # Two blocks are no block: the shorter one decides how much is needed.
                primitive = (block + block).find(block, 1) == period
                least = patience * needed(period, len(set(block)))
                if primitive and _has_period(text, period, least):
                    return True
            # The block may hold something twice; its own period is then further back.
            found = text.rfind(probe, first, found + len(probe) - 1)
        return False


def needed(period: int, different: int) -> int:
    """Tokens of repetition that make a loop of a block of `period` tokens, `different` of them."""
    if different <= FEW_DIFFERENT:
        least = LEAST_FEW
    else:
        least = LEAST_SHORT if period < SHORT_PERIOD else LEAST
    return max(least, REPETITIONS * period)


def _has_period(text: str, period: int, length: int) -> bool:
    """Whether the last `length` tokens are equal to those `period` before them."""
    return length <= len(text) and text[-length:-period] == text[period - length :]
