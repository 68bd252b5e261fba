"""Compiles grammars away from the engine's steps, and keeps what it compiled.

llguidance and its view of the vocabulary take about a second to get ready. That happens once, in
a thread, when `prepare` is called or the first grammar comes; requests without one do not wait
for it, though steps are held up while the constructor holds the interpreter's lock.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ossia.engine.masks import MASK_WORDS, Mask, MaskCache, Nothing

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CAPACITY = 256  # grammars
BEGINNINGS = 64  # of one grammar whose masks are kept
LONGEST_BEGINNING = 24  # tokens
SMALL_MASK = 2048  # ids; larger ones are not kept here
THREADS = 2


class GrammarError(Exception):
    """A grammar that does not compile; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A grammar at its beginning."""

    matcher: LLMatcher  # to be copied, never advanced
    first: Mask  # of the first token
    known: dict[tuple[int, ...], Mask] = field(default_factory=dict)  # after these tokens

    def remember(self, tokens: tuple[int, ...], mask: Mask) -> None:
        """Keep the mask after these tokens: turns of one grammar begin with the same headers.

        Only the first few beginnings and small masks, so that a grammar takes 1 MB at most.
        """
        small = not isinstance(mask, Nothing) and len(mask.ids) <= SMALL_MASK
        if small and len(self.known) < BEGINNINGS:
            self.known[tokens] = mask


class Grammars:
    """Compiled grammars by their text, the least recently used ones dropped.

    Attributes:
        compile_seconds: time that threads spent on compiling, waiting not counted.
        compiled: grammars that were compiled, failed ones included.
    """

    def __init__(
        self, masks: MaskCache, tokenizer: Callable[[], LLTokenizer] | None = None
    ) -> None:
        """`tokenizer` makes llguidance's view of the vocabulary, in a thread, when it is needed."""
        self._masks = masks
        self._make_tokenizer = tokenizer or _harmony_tokenizer
        self._tokenizer: Future[LLTokenizer] | None = None
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="grammar")
        self._known: OrderedDict[str, Future[CompiledGrammar]] = OrderedDict()
        self._lock = threading.Lock()  # for the counters
        self.compile_seconds = 0.0
        self.compiled = 0

    def prepare(self) -> None:
        """Begin to make ready what every grammar needs. Returns at once; may be called again."""
        if self._tokenizer is None:
            self._tokenizer = Future()
            # A daemon: an engine that is stopped at once does not wait for it.
            threading.Thread(
                target=self._prepare, args=(self._tokenizer,), name="grammar-start", daemon=True
            ).start()

    def compile(self, grammar: str) -> Future[CompiledGrammar]:
        """The grammar, now or soon. Call from one thread only.

        The future raises GrammarError if the grammar cannot be used.
        """
        known = self._known.get(grammar)
        if known is not None:
            self._known.move_to_end(grammar)
            return known
        self.prepare()
        future = self._known[grammar] = self._pool.submit(self._compile, grammar)
        if len(self._known) > CAPACITY:
            self._known.popitem(last=False)
        return future

    def _prepare(self, future: Future[LLTokenizer]) -> None:
        try:
            future.set_result(self._make_tokenizer())
        except BaseException as error:  # whoever waits must learn of it
            future.set_exception(error)

    def _compile(self, grammar: str) -> CompiledGrammar:
        assert self._tokenizer is not None
        tokenizer = self._tokenizer.result()
        started = time.perf_counter()
        try:
            return self._start_of(grammar, tokenizer)
        finally:
            with self._lock:
                self.compile_seconds += time.perf_counter() - started
                self.compiled += 1

    def _start_of(self, grammar: str, tokenizer: LLTokenizer) -> CompiledGrammar:
        from llguidance import LLMatcher

        from ossia.harmony.ll_tokenizer import parser_limits

        matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits())
        words = np.empty(MASK_WORDS, dtype=np.int32)
        if not matcher.is_error():
            fill(matcher, words)
        if matcher.is_error():
            raise GrammarError(
                f"The grammar of this request cannot be used: {first_line(matcher)}."
            )
        return CompiledGrammar(matcher, self._masks.get(words))


def fill(matcher: LLMatcher, words: NDArray[np.int32]) -> None:
    """What the matcher allows next, into int32 [MASK_WORDS]. Drops the interpreter's lock."""
    matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)


def first_line(matcher: LLMatcher) -> str:
    """What went wrong in a matcher, in short."""
    lines = matcher.get_error().strip().splitlines()
    return lines[0].rstrip(".") if lines else "unknown fault"


def _harmony_tokenizer() -> LLTokenizer:
    # Imported here: it loads the vocabulary, which the engine needs for nothing else.
    from ossia.harmony.ll_tokenizer import ll_tokenizer
    from ossia.harmony.tokenizer import Tokenizer

    return ll_tokenizer(Tokenizer())
