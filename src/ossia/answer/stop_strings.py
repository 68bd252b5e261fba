"""Stop strings: where the visible text ends, whatever pieces it comes in."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Passes text on until a stop string is complete; holds back what could be the start of one.

    The outcome is the same for every split of the text: of several stop strings the one that is
    complete first counts, and if two are complete at once the one that began first.

    Attributes:
        matched: the stop string that ended the text, or None.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        """`stop` holds no empty string."""
        self.matched: str | None = None
        self._stop = tuple(stop)
        self._held = ""

    def feed(self, text: str) -> str:
        """What may be shown now. After a match this is always empty."""
        if self.matched is not None:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        found = [
            (start + len(stop), start, stop)
            for stop in self._stop
            if (start := text.find(stop)) >= 0
        ]
        if found:
            _, start, self.matched = min(found)
            self._held = ""
            return text[:start]
        keep = self._longest_beginning_at_end(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """The text has ended: what was held back."""
        held, self._held = self._held, ""
        return held

    def _longest_beginning_at_end(self, text: str) -> int:
        longest = max(map(len, self._stop)) - 1
        for size in range(min(longest, len(text)), 0, -1):
            tail = text[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0
