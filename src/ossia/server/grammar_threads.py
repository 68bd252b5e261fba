"""Turn grammars are compiled in threads of their own, so that a large schema holds up nobody else.

llguidance bounds what one grammar may cost; on top of that a request waits for COMPILE_SECONDS at
most. A request whose client leaves before its turn has come is never compiled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from ossia.answer.constraint import turn_constraint
from ossia.engine.messages import Constraint
from ossia.errors import InvalidRequest, Overloaded
from ossia.harmony.grammar import CHAT_PATHS, FieldPaths, GrammarCompiler
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Turn

COMPILE_SECONDS = 10.0
_THREADS = 2
T = TypeVar("T")


class GrammarThreads:
    """Makes turns and their constraints. The compiler itself is made in a thread as well."""

    def __init__(self, tokenizer: Tokenizer, on_refusal: Callable[[], None]) -> None:
        """`on_refusal` is called for each grammar that cannot be enforced."""
        self._on_refusal = on_refusal
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="ossia-grammar")
        self._compiler: Future[GrammarCompiler] = self._pool.submit(GrammarCompiler, tokenizer)

    def close(self) -> None:
        """Wait for what is being compiled; what waits for its turn is dropped."""
        self._pool.shutdown(cancel_futures=True)

    async def constrain(
        self,
        make_turn: Callable[[], Turn],
        *,
        at_once: bool,
        max_reasoning_tokens: int | None = None,
        paths: FieldPaths = CHAT_PATHS,
    ) -> tuple[Turn, Constraint]:
        """The turn, and what the model may write in it.

        `at_once`: the request brings no schema, so that there is nothing to compile but a small
        grammar that is most likely known; a thread would cost more than it saves.

        Raises:
            InvalidRequest: `make_turn` refuses, or a grammar cannot be enforced or takes too long.
            Overloaded: other grammars took all the time there was.
        """

        def constrained() -> tuple[Turn, Constraint]:
            compiler = self._compiler.result()
            turn = make_turn()
            try:
                return turn, turn_constraint(
                    compiler, turn, max_reasoning_tokens=max_reasoning_tokens, paths=paths
                )
            except InvalidRequest:
                self._on_refusal()
                raise

        if at_once and self._compiler.done():
            return constrained()
        return await self._in_thread(constrained)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        started = False

        def noting_start() -> T:
            nonlocal started
            started = True
            return work()

        try:
            future = asyncio.get_running_loop().run_in_executor(self._pool, noting_start)
            return await asyncio.wait_for(future, COMPILE_SECONDS)
        except TimeoutError:
            if not started:
                raise Overloaded(
                    "The server is busy with the schemas of other requests; please retry later."
                ) from None
            self._on_refusal()
            raise InvalidRequest(
                f"The grammar of this request takes more than {COMPILE_SECONDS:.0f} s to compile; "
                "simplify the schemas of its tools and of response_format.",
                code="grammar_too_large",
            ) from None
