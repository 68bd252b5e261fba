"""One sequence and its grammar: which tokens may come next, given those that came."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

from ossia.engine.grammars import LONGEST_BEGINNING, CompiledGrammar, Grammars, first_line
from ossia.engine.loops import LoopDetector
from ossia.engine.masks import AllBut, Mask, Nothing, only
from ossia.engine.messages import Constraint, PhaseCut
from ossia.engine.phase import PhaseWatch
from ossia.engine.vocabulary import FIRST_SPECIAL

if TYPE_CHECKING:
    from llguidance import LLMatcher

ENDLESS = 4  # times the patience with reasoning: an answer may repeat something on purpose
PREPARE_AFTER = 64  # tokens of a phase; no loop is found before, and most phases end before


class Follower:
    """The grammar's side of one sequence. Knows generated tokens only, so it survives preemption.

    `record` is called by the engine's thread between steps, `advance` by whoever computes masks
    during a step. Where a grammar allows every ordinary token, and a special one to go on, it must
    be in the middle of free text (a range of token ids, repeated without bounds): ordinary tokens
    change nothing there, so they are not even shown to the matcher, and the mask stays.

    Attributes:
        mask: of the next token; None while it has to be computed.
        grammar: what has to be compiled before the sequence can start.
        endless: the sequence should end, because it repeats itself and will not stop.
    """

    def __init__(self, constraint: Constraint, grammars: Grammars) -> None:
        self.mask: Mask | None = None
        self.endless = False
        self.grammar: Future[CompiledGrammar] = grammars.compile(constraint.grammar)
        self._grammars = grammars
        self._matcher: LLMatcher | None = None  # None while masks are known without it
        self._unseen: list[int] = []  # tokens that the matcher has not consumed
        self._path: list[int] | None = []  # all tokens for the matcher; None: too many to be known
        self._watch = None if constraint.limit is None else PhaseWatch(constraint.limit)
        self._then: Future[CompiledGrammar] | None = None  # of the limit
        self._cut = False  # the closing token is being forced
        self._loops = LoopDetector(ENDLESS) if constraint.stop_loops else None

    def record(self, token: int) -> PhaseCut | None:
        """A token was generated; why its phase ends here, if it does."""
        watch = self._watch
        if self._cut:
            self._begin_then()
            return None
        if not (isinstance(self.mask, AllBut) and self.mask.free_text and token < FIRST_SPECIAL):
            self._unseen.append(token)
            self.mask = None
            if self._path is not None:
                self._path.append(token)
                if len(self._path) > LONGEST_BEGINNING:
                    self._path = None
        if self._loops is not None and not (watch is not None and watch.inside):
            self.endless = self._loops.add(token)
        if watch is None:
            return None
        cut = watch.record(token)
        if cut is not None:
            self._cut = True
            self.mask = only(watch.limit.closing)
        if self._then is None and (cut is not None or watch.tokens >= self._prepare_at(watch)):
            self._then = self._grammars.compile(watch.limit.then)
        return cut

    def advance(self) -> LLMatcher | None:
        """The matcher after all tokens, its mask to be computed; None if `mask` is set instead."""
        if self.mask is not None:
            return None
        compiled = self.grammar.result()
        if self._path is not None:
            self.mask = compiled.known.get(tuple(self._path)) if self._path else compiled.first
            if self.mask is not None:
                return None
        if self._matcher is None:
            self._matcher = compiled.matcher.deep_copy()
        unseen, self._unseen = self._unseen, []
        if unseen and not self._matcher.consume_tokens(unseen):
            self.mask = failure(self._matcher)
            return None
        return self._matcher

    def computed(self, mask: Mask) -> None:
        """The mask that `advance` asked for."""
        self.mask = mask
        if self._path is not None:
            self.grammar.result().remember(tuple(self._path), mask)

    def _begin_then(self) -> None:
        assert self._then is not None
        self.grammar = self._then
        self.mask = self._matcher = self._watch = None
        self._unseen.clear()
        self._path = []
        self._cut = False

    @staticmethod
    def _prepare_at(watch: PhaseWatch) -> int:
        limit = watch.limit.max_tokens
        return PREPARE_AFTER if limit is None else min(PREPARE_AFTER, limit // 2)


def failure(matcher: LLMatcher) -> Nothing:
    """For a matcher that broke, which ends its sequence."""
    return Nothing(f"The grammar of this request could not be followed: {first_line(matcher)}.")
