"""What the code prints: the beginning at once, and of a long rest the end only."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable

KEPT = 64 << 10  # bytes: half of it from the beginning, half from the end
_HALF = KEPT // 2
_BACK = 4096  # bytes; small parts of the end are joined to parts of this size


class Output:
    """Of one call."""

    def __init__(self, send: Callable[[str], None]) -> None:
        """`send` is given the beginning, as it comes."""
        self._send = send
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._room = _HALF  # bytes that the beginning still takes
        self._end: deque[bytes] = deque()
        self._end_size = 0
        self._left_out = 0

    def add(self, data: bytes) -> None:
        """More was printed."""
        first, rest = data[: self._room], data[self._room :]
        if first:
            self._room -= len(first)
            self._forward(self._decoder.decode(first, not self._room))
        if not rest:
            return
        if self._end and len(self._end[-1]) < _BACK:
            rest = self._end.pop() + rest
            self._end_size -= len(rest) - len(data) + len(first)
        self._end.append(rest)
        self._end_size += len(rest)
        while self._end_size > _HALF:
            oldest = self._end.popleft()
            spare = min(len(oldest), self._end_size - _HALF)
            self._left_out += spare
            self._end_size -= spare
            if spare < len(oldest):
                self._end.appendleft(oldest[spare:])

    def finish(self) -> tuple[int, str]:
        """Bytes left out of the middle, and the text after them."""
        if self._room:
            self._forward(self._decoder.decode(b"", True))
        return self._left_out, b"".join(self._end).decode("utf-8", "replace")

    def _forward(self, text: str) -> None:
        if text:
            self._send(text)
