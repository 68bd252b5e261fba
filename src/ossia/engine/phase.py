"""Watches a part of an answer that may be cut short, as `PhaseLimit` says."""

from __future__ import annotations

from ossia.engine.loops import LoopDetector
from ossia.engine.messages import PhaseCut, PhaseLimit


class PhaseWatch:
    """Follows the tokens of one sequence until it was cut.

    Attributes:
        limit: what it watches for.
        tokens: counted inside the phase so far, over all of its parts.
        inside: whether the next token belongs to the phase, or ends it.
    """

    def __init__(self, limit: PhaseLimit) -> None:
        self.limit = limit
        self.tokens = 0
        self.inside = False
        self._recent: list[int] = []  # the last tokens outside, as many as the opening has
        self._loops = LoopDetector() if limit.stop_loops else None

    def record(self, token: int) -> PhaseCut | None:
        """A token was generated; why the phase must be closed now, if it must."""
        limit = self.limit
        if not self.inside:
            self._recent.append(token)
            del self._recent[: -len(limit.opening)]
            if self._recent != limit.opening:
                return None
            self.inside = True
            self._recent.clear()
        elif token == limit.closing:
            self.inside = False
            if self._loops is not None:
                self._loops.clear()
            return None
        else:
            self.tokens += 1
            if self._loops is not None and self._loops.add(token):
                return "loop"
        if limit.max_tokens is not None and self.tokens >= limit.max_tokens:
            return "max_tokens"
        return None
