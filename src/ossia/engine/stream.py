"""The tokens of one sequence on their way from the engine to whoever asked for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from ossia.engine.messages import Chunk
from ossia.errors import RequestError


class TokenStream(AsyncIterator[Chunk]):
    """Chunks of one sequence, in order; the last one has a finish reason.

    Chunks that arrived while the consumer was busy are joined into one. Ending the iteration
    early (`aclose`, a cancelled consumer, dropping the stream) aborts the sequence at once.
    One consumer at a time.
    """

    def __init__(self, request_id: str, on_abandon: Callable[[str], None]) -> None:
        """`on_abandon` is called once with the id if the stream ends before the sequence does."""
        self.request_id = request_id
        self._on_abandon = on_abandon
        self._loop = asyncio.get_running_loop()
        self._pending: list[Chunk] = []
        self._failure: RequestError | None = None
        self._ended = False  # nothing more will be put in
        self._waiter: asyncio.Future[None] | None = None

    def __aiter__(self) -> TokenStream:
        return self

    async def __anext__(self) -> Chunk:
        """The tokens that arrived since the last call; waits if there are none.

        Raises:
            EngineUnavailable: the engine process died while the sequence ran.
        """
        while not self._pending:
            if self._failure is not None:
                raise self._failure
            if self._ended:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            except asyncio.CancelledError:
                self._abandon()
                raise
            finally:
                self._waiter = None
        chunks, self._pending = self._pending, []
        return chunks[0] if len(chunks) == 1 else _join(chunks)

    async def aclose(self) -> None:
        """Stop here; the sequence is aborted if it still runs."""
        self._pending = []
        self._abandon()

    def __del__(self) -> None:
        # The collector may run in any thread; the socket belongs to the loop's.
        if not self._ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._on_abandon, self.request_id)

    def put(self, chunk: Chunk) -> None:
        """Called by the client with each chunk that arrives."""
        if self._ended:
            return
        self._pending.append(chunk)
        self._ended = chunk.finish_reason is not None
        self._wake()

    def fail(self, error: RequestError) -> None:
        """Called by the client when no more chunks can come; raised after the pending ones."""
        if self._ended:
            return
        self._failure = error
        self._ended = True
        self._wake()

    def end(self) -> None:
        """Called by the client when the sequence was aborted: iteration stops."""
        self._ended = True
        self._wake()

    def _abandon(self) -> None:
        if not self._ended:
            self._ended = True
            self._on_abandon(self.request_id)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _join(chunks: list[Chunk]) -> Chunk:
    last = chunks[-1]
    with_logprobs = any(chunk.logprobs is not None for chunk in chunks)
    return Chunk(
        request_id=last.request_id,
        token_ids=[token for chunk in chunks for token in chunk.token_ids],
        logprobs=[p for chunk in chunks for p in chunk.logprobs or ()] if with_logprobs else None,
        finish_reason=last.finish_reason,
        cached_tokens=max(chunk.cached_tokens for chunk in chunks),
        error=last.error,
        cut=next((chunk.cut for chunk in chunks if chunk.cut is not None), None),
    )
