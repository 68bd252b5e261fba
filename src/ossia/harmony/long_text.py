"""Encoding of texts with very long words, in linear time.

Byte-pair encoding first splits a text into pieces (words, runs of blanks or of signs), then merges
inside each piece. oss-harmony's merge takes time quadratic in the piece: 100,000 blanks or Chinese
characters without a stop take between 3 and 30 seconds there. Here pieces past `LONG_PIECE` are
merged with a heap, in n log n; everything else still goes through oss-harmony. The tokens are the
same.
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Callable, Mapping

LONG_PIECE = 512  # characters

# White space as Unicode defines it, which is less than what str.isspace takes for it.
_WHITE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    chr(code) for code in range(0x2000, 0x200B)
)
_WHITE_RUN = re.compile(f"[{_WHITE}]{{64,}}")

# The vocabulary's split of text into pieces, over the stand-ins of `_StandIns`: A for upper and
# title case, a for lower case, \xaa for letters without case, \u0301 for marks, 0 for numbers,
# \t for blanks, ! for the rest. ASCII stands for itself, and so does the long s, an s after '.
_UPPER = "A-Z\xaa\u0301"
_LOWER = "a-z\u017f\xaa\u0301"
_NO_WORD = "A-Za-z\u017f\xaa0-9"  # marks may start a word or stand among signs
_SUFFIX = "(?:'(?:[sS\u017ftTmMdD]|[rR][eE]|[vV][eE]|[lL][lL]))?"
_PIECE = re.compile(
    f"[^\r\n{_NO_WORD}]?[{_UPPER}]*[{_LOWER}]+{_SUFFIX}"
    f"|[^\r\n{_NO_WORD}]?[{_UPPER}]+[{_LOWER}]*{_SUFFIX}"
    "|[0-9]{1,3}"
    f"| ?[^\\s{_NO_WORD}]+[\r\n/]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+",
    re.ASCII,  # \s must not take the ASCII separators 0x1c to 0x1f
)


def needs_care(text: str) -> bool:
    """Whether a piece of `text` might be longer than `LONG_PIECE`; cheap, may be a false alarm."""
    if len(text) <= LONG_PIECE:
        return False
    # A piece is either white throughout or has no space but at its start.
    if max(map(len, text.split(" "))) >= LONG_PIECE:
        return True
    return any(len(run) >= LONG_PIECE for run in _WHITE_RUN.findall(text))


class LongTextEncoder:
    """Encodes like the vocabulary does, with a merge that stays fast on long pieces.

    Args:
        ranks: token id of every ordinary token, by its bytes; the id is the merge's priority.
        encode_short: the vocabulary's own encoder, for everything but long pieces.
    """

    def __init__(
        self, ranks: Mapping[bytes, int], encode_short: Callable[[str], list[int]]
    ) -> None:
        self._ranks = ranks
        self._encode_short = encode_short
        self._stand_ins = _StandIns()

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            UnicodeEncodeError: the text has lone surrogates.
        """
        ids: list[int] = []
        done = 0  # characters encoded so far; always the end of a piece
        cuts: list[int] = []  # starts of the latest pieces, back to one that follows no blank
        for match in _PIECE.finditer(text.translate(self._stand_ins)):
            start, end = match.span()
            if start == done or text[start - 1] not in _WHITE:
                cuts.clear()
            cuts.append(start)
            if end - start > LONG_PIECE:
                # Blanks split differently where a text ends, so text is cut after them only
                # where the vocabulary cuts too.
                for cut in cuts:
                    ids += self._encode_short(text[done:cut])
                    done = cut
                ids += merge(text[start:end].encode(), self._ranks)
                done = end
        return ids + self._encode_short(text[done:])


def merge(piece: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Byte-pair encoding of one piece: join the adjacent pair of lowest rank (the leftmost of
    equals) until no pair is in the vocabulary. Time n log n, n bytes."""
    parts: list[bytes | None] = [piece[i : i + 1] for i in range(len(piece))]
    length = len(parts)
    before = list(range(-1, length - 1))  # index of the part to the left
    after = list(range(1, length + 1))  # index of the part to the right
    heap: list[tuple[int, int, bytes]] = []  # rank, index of the left part, the joined bytes
    for i in range(length - 1):
        pair = piece[i : i + 2]
        if (rank := ranks.get(pair)) is not None:
            heap.append((rank, i, pair))
    heapq.heapify(heap)
    while heap:
        _, i, joined = heapq.heappop(heap)
        left, j = parts[i], after[i]
        # Entries go stale when a part at either end has been joined with another since.
        if left is None or j >= length:
            continue
        right = parts[j]
        if right is None or len(left) + len(right) != len(joined):
            continue
        parts[i], parts[j] = joined, None
        k = after[i] = after[j]
        if k < length:
            before[k] = i
            pair = joined + (parts[k] or b"")
            if (rank := ranks.get(pair)) is not None:
                heapq.heappush(heap, (rank, i, pair))
        h = before[i]
        if h >= 0:
            pair = (parts[h] or b"") + joined
            if (rank := ranks.get(pair)) is not None:
                heapq.heappush(heap, (rank, h, pair))
    return [ranks[part] for part in parts if part is not None]


class _StandIns(dict[int, str]):
    """`str.translate` table from a character to one that stands for its class; fills as asked."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if code < 128 or char == "\u017f":  # the long s counts as an s in 's
            stand_in = char
        elif category in ("Lu", "Lt"):
            stand_in = "A"
        elif category == "Ll":
            stand_in = "a"
        elif category[0] == "L":
            stand_in = "\xaa"
        elif category[0] == "M":
            stand_in = "\u0301"
        elif category[0] == "N":
            stand_in = "0"
        else:
            stand_in = "\t" if char in _WHITE else "!"
        self[code] = stand_in
        return stand_in
