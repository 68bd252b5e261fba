"""Computes the masks of a step beside the network.

    worker.start(followers)  # before the forward pass
    ...                      # the network
    worker.wait()            # before sampling

After `wait` every follower has its mask, if only one that says what went wrong.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

import numpy as np

from ossia.engine.follower import Follower, failure
from ossia.engine.grammars import GrammarError
from ossia.engine.masks import MASK_WORDS, MaskCache, Nothing

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

logger = logging.getLogger(__name__)

MAX_THREADS = 8  # that compute masks of one step
AT_ONCE_SECONDS = 0.001  # of computing, for all masks of a step
MASK_SECONDS = 0.25  # of computing that the next token of one sequence may cost
CAREFUL_STEPS = 32  # in which sequences are timed one by one, after a step that was slow

Work = list[tuple[Follower, "LLMatcher"]]


class MaskWorker:
    """Decides whether a step's masks are worth a thread, and computes them.

    A thread that does next to nothing costs more than it saves, because both threads want the
    interpreter's lock. What is expected to take less than `AT_ONCE_SECONDS` is therefore computed
    by `wait` itself; a GPU is busy with the network then. More goes to a thread, which is started
    by the first such step and in turn uses llguidance's own.

    Attributes:
        wait_seconds: time that passed in `wait`.
        computed: masks computed so far.
    """

    def __init__(self, masks: MaskCache) -> None:
        self.wait_seconds = 0.0
        self.computed = 0
        self._masks = masks
        self._executor: LLExecutor | None = None
        self._thread: threading.Thread | None = None
        self._jobs: SimpleQueue[list[Follower]] = SimpleQueue()
        self._done: SimpleQueue[None] = SimpleQueue()
        self._in_thread = False  # whether a job is there
        self._at_once: list[Follower] = []  # left to `wait`
        self._mask_seconds = 0.0001  # that a mask takes, on average of late
        self._careful = 0  # steps left

    def start(self, followers: Sequence[Follower]) -> None:
        """Begin with the masks of those that lack one. Returns at once."""
        self.wait()
        missing = [follower for follower in followers if follower.mask is None]
        if len(missing) * self._mask_seconds <= AT_ONCE_SECONDS:
            self._at_once = missing
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="masks", daemon=True)
            self._thread.start()
        self._in_thread = True
        self._jobs.put(missing)

    def wait(self) -> None:
        """Return when everything that was started is done."""
        if not self._at_once and not self._in_thread:
            return
        started = time.perf_counter()
        if self._in_thread:
            self._done.get()
            self._in_thread = False
        else:
            followers, self._at_once = self._at_once, []
            self._run(followers)
        self.wait_seconds += time.perf_counter() - started

    def _serve(self) -> None:
        while True:
            self._run(self._jobs.get())
            self._done.put(None)

    def _run(self, followers: Sequence[Follower]) -> None:
        """Give each of them a mask, whatever happens."""
        started = time.perf_counter()
        try:
            if self._careful:
                self._careful -= 1
                for follower in followers:
                    self._compute_timed(follower)
            else:
                self._compute(followers)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a panic in llguidance is no Exception
            self._compute_alone(followers, error)
        seconds = time.perf_counter() - started
        self._mask_seconds += 0.1 * (seconds / len(followers) - self._mask_seconds)
        if seconds > MASK_SECONDS:
            self._careful = CAREFUL_STEPS

    def _compute(self, followers: Sequence[Follower]) -> None:
        work: Work = []
        for follower in followers:
            try:
                matcher = follower.advance()
            except GrammarError as error:
                follower.mask = Nothing(str(error))
                continue
            if matcher is not None:
                work.append((follower, matcher))
        if work:
            self._fill(work)

    def _compute_timed(self, follower: Follower) -> None:
        """A grammar that is too ambiguous slows down everybody, and more so with each token."""
        started = time.thread_time()
        self._compute([follower])
        if time.thread_time() - started > MASK_SECONDS:
            follower.mask = Nothing(
                "The grammar of this request takes too long to follow; make it less ambiguous."
            )

    def _fill(self, work: Work) -> None:
        words = np.empty((len(work), MASK_WORDS), dtype=np.int32)
        jobs = [(matcher, row) for row, (_, matcher) in enumerate(work)]
        self._get_executor().unsafe_compute_mask_ptr(
            jobs, words.ctypes.data, words.strides[0], len(work)
        )
        for row, (follower, matcher) in zip(words, work, strict=True):
            follower.computed(failure(matcher) if matcher.is_error() else self._masks.get(row))
        self.computed += len(work)

    def _compute_alone(self, followers: Sequence[Follower], error: BaseException) -> None:
        """One by one, so that only the culprit fails."""
        for follower in followers:
            if follower.mask is not None:
                continue
            try:
                if len(followers) == 1:
                    raise error
                self._compute([follower])
            except BaseException as fault:
                logger.error("A grammar failed.", exc_info=fault)
                follower.mask = Nothing(
                    f"The engine failed on the grammar of this request ({type(fault).__name__}); "
                    "the server's log says more."
                )

    def _get_executor(self) -> LLExecutor:
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor(max(1, min(MAX_THREADS, (os.cpu_count() or 2) // 2)))
        return self._executor
