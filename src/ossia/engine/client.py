"""The API process's view of the engine: ask for tokens, get streams of chunks.

The client starts the engine process, hands each chunk to the stream it belongs to, and when the
process dies tells every open stream and starts it again. It imports no torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import msgspec

from ossia.config import EngineConfig
from ossia.engine.checks import check_constraint, check_request
from ossia.engine.child import EngineChild
from ossia.engine.messages import (
    Abort,
    Chunk,
    Constraint,
    EngineInfo,
    EngineStats,
    Generate,
    ResetPrefixCache,
    StepOutput,
)
from ossia.engine.stream import TokenStream
from ossia.errors import EngineUnavailable, InternalError, StartupError
from ossia.sampling import SamplingParams

logger = logging.getLogger(__name__)

EngineState = Literal["ready", "restarting", "failed", "closed"]


def _ignore(_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to stop starting an engine process that keeps dying."""

    max_in_a_row: int = 5  # attempts, each after a run shorter than stable_seconds
    stable_seconds: float = 60.0  # a run this long starts the count again
    first_backoff: float = 0.25  # seconds before the first attempt, then doubled each time


@dataclass(frozen=True, slots=True)
class _Hooks:
    on_progress: Callable[[str], None] = _ignore
    on_state: Callable[[EngineState], None] = _ignore


class EngineClient:
    """One engine process and the requests that run in it.

    Attributes:
        info: what the engine turned out to be.
        stats: latest gauges and counters; counters go on over a restart of the process.
        state: "ready", or why requests are refused now.
        restarts: how often the process was started again.
    """

    def __init__(
        self,
        config: EngineConfig,
        child: EngineChild,
        info: EngineInfo,
        hooks: _Hooks,
        policy: RestartPolicy,
        prepare_grammars: bool,
    ) -> None:
        """Use `EngineClient.start`."""
        self.info = info
        self.stats = EngineStats()
        self.state: EngineState = "ready"
        self.restarts = 0
        self._config = config
        self._child = child
        self._hooks = hooks
        self._policy = policy
        self._prepare_grammars = prepare_grammars
        self._before_restart = EngineStats()
        # Weak: a stream that its consumer dropped aborts itself.
        self._streams: weakref.WeakValueDictionary[str, TokenStream] = weakref.WeakValueDictionary()
        self._supervisor = asyncio.create_task(self._supervise(), name="ossia-engine-supervisor")

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        on_progress: Callable[[str], None] | None = None,
        on_state: Callable[[EngineState], None] | None = None,
        policy: RestartPolicy | None = None,
        *,
        prepare_grammars: bool = True,
    ) -> EngineClient:
        """Start the engine process and wait until it can answer.

        `on_progress` gets a line for each step of the start; `on_state` each change of `state`.
        With `prepare_grammars` the engine gets ready for constraints as soon as it can answer, in
        about a second of a thread's time; without, when the first one comes.

        Raises:
            StartupError: the engine cannot start as configured; says what to change.
        """
        hooks = _Hooks(on_progress or _ignore, on_state or _ignore)
        child = await EngineChild.spawn(config, prepare_grammars=prepare_grammars)
        try:
            info = await child.ready(hooks.on_progress)
        except BaseException:
            await child.stop()
            raise
        return cls(config, child, info, hooks, policy or RestartPolicy(), prepare_grammars)

    @property
    def alive(self) -> bool:
        """Whether requests are accepted now."""
        return self.state == "ready"

    @property
    def pid(self) -> int:
        """Of the engine process, also of the one that just died."""
        return self._child.pid

    @property
    def num_running(self) -> int:
        """Sequences that were asked for and have not ended, waiting ones included."""
        return len(self._streams)

    def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
    ) -> TokenStream:
        """Start one sequence now; iterate over the result for its chunks.

        With a `constraint`, it starts as soon as the grammar is compiled; a grammar that cannot be
        used is a fault of the kind below.

        A fault of the engine that ends only this sequence is a last chunk with finish reason
        "error" and a sentence in `error`. Choices n > 1 are n calls with ids of their own (and
        seeds of their own, if a seed is given).

        Raises:
            EngineUnavailable: the engine is not running; try again later. Also raised by the
                stream if the engine dies meanwhile.
            InvalidRequest: the prompt is empty, a sampling parameter is out of range, or the
                constraint cannot go with them.
            ContextLengthExceeded: the prompt leaves no room for a token.
        """
        if self.state != "ready":
            raise self._unavailable()
        if request_id in self._streams:
            raise InternalError(f"The request id {request_id} is already in use.")
        check_request(prompt, params, self.info)
        check_constraint(constraint, params, self.info.vocab_size)
        stream = TokenStream(request_id, self._abandon)
        self._streams[request_id] = stream
        if not self._child.send(Generate(request_id, list(prompt), params, constraint)):
            del self._streams[request_id]
            stream.end()
            raise self._unavailable()
        return stream

    async def abort(self, request_ids: Sequence[str]) -> None:
        """Stop these sequences; their streams end without a further chunk. Unknown ids are fine."""
        known = []
        for request_id in request_ids:
            stream = self._streams.pop(request_id, None)
            if stream is not None:
                stream.end()
                known.append(request_id)
        if known:
            self._child.send(Abort(known))

    async def reset_prefix_cache(self) -> None:
        """Forget all cached prefixes that no running request uses."""
        if not self._child.send(ResetPrefixCache()):
            raise self._unavailable()

    async def close(self) -> None:
        """Stop the engine within two seconds; open streams raise EngineUnavailable."""
        if self.state == "closed":
            return
        self._set_state("closed")
        self._supervisor.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._supervisor
        self._fail_streams(self._unavailable())
        await self._child.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _abandon(self, request_id: str) -> None:
        self._streams.pop(request_id, None)
        self._child.send(Abort([request_id]))

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        attempts = 0  # in a row
        while True:
            started = loop.time()
            await self._deliver()
            if loop.time() - started >= self._policy.stable_seconds:
                attempts = 0
            logger.error("The engine process %s.", self._child.ending)
            self._set_state("restarting")
            self._fail_streams(
                EngineUnavailable(
                    f"The engine process {self._child.ending} while this request ran; "
                    "please send the request again."
                )
            )
            self.stats = self._before_restart = _counters(self.stats)
            restarted = False
            while not restarted:
                if attempts >= self._policy.max_in_a_row:
                    logger.error("The engine failed %d times in a row; giving up.", attempts)
                    self._set_state("failed")
                    return
                restarted = await self._restarted(self._policy.first_backoff * 2**attempts)
                attempts += 1
            logger.info("The engine process was started again.")
            self._set_state("ready")

    async def _deliver(self) -> None:
        """Hand out chunks until the process ends."""
        async for message in self._child.messages():
            if isinstance(message, StepOutput):
                self.stats = _add(self._before_restart, message.stats)
                for chunk in message.chunks:
                    self._hand_out(chunk)

    def _hand_out(self, chunk: Chunk) -> None:
        # A function of its own: a local variable of `_deliver` would keep a dropped stream alive.
        stream = self._streams.get(chunk.request_id)
        if stream is not None:
            if chunk.finish_reason is not None:
                self._streams.pop(chunk.request_id, None)
            stream.put(chunk)

    async def _restarted(self, backoff: float) -> bool:
        await self._child.stop()
        await asyncio.sleep(backoff)
        self.restarts += 1
        try:
            self._child = await EngineChild.spawn(
                self._config, prepare_grammars=self._prepare_grammars
            )
            self.info = await self._child.ready(self._hooks.on_progress)
        except StartupError as error:
            logger.error("The engine did not start again: %s", error.message)
            return False
        return True

    def _fail_streams(self, error: EngineUnavailable) -> None:
        streams = list(self._streams.values())
        self._streams.clear()
        for stream in streams:
            stream.fail(error)

    def _set_state(self, state: EngineState) -> None:
        if state != self.state:
            self.state = state
            self._hooks.on_state(state)

    def _unavailable(self) -> EngineUnavailable:
        if self.state == "failed":
            return EngineUnavailable(
                "The engine failed several times in a row and is no longer started; "
                "look at the server's log and restart the server."
            )
        if self.state == "closed":
            return EngineUnavailable("The server is shutting down.")
        return EngineUnavailable("The engine is being started again; please retry in a moment.")


COUNTERS = (
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "preemptions",
    "steps",
    "step_seconds",
    "model_seconds",
    "constrained",
    "grammars_compiled",
    "grammar_compile_seconds",
    "masks_computed",
    "mask_wait_seconds",
    "cuts_by_limit",
    "cuts_by_loop",
)


def _counters(stats: EngineStats) -> EngineStats:
    """Only what grows; nothing runs and no page is held in a process that ended."""
    return EngineStats(**{name: getattr(stats, name) for name in COUNTERS})


def _add(base: EngineStats, latest: EngineStats) -> EngineStats:
    if base.steps == 0:
        return latest
    sums = {name: getattr(base, name) + getattr(latest, name) for name in COUNTERS}
    return msgspec.structs.replace(latest, **sums)
