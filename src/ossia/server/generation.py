"""The sequences of one HTTP request: prompts go in, deltas of each choice come out.

Every API that generates runs through here. A streamed answer sends the deltas as they come, a
whole answer is their fold. However the iteration ends, nothing is left running in the engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import msgspec

from ossia.answer.assembler import Delta, TextAssembler, TurnAssembler
from ossia.engine.client import EngineClient
from ossia.engine.messages import Chunk, Constraint
from ossia.engine.stream import TokenStream
from ossia.errors import EngineUnavailable
from ossia.sampling import SamplingParams
from ossia.server.metrics import Metrics
from ossia.server.schema.common import seed_of_choice
from ossia.server.usage import Usage


@dataclass(slots=True)
class Choice:
    """One sequence: tokens arrive by `stream`, `assembler` makes deltas of them."""

    index: int
    prompt: int  # number of the prompt it continues
    stream: TokenStream
    assembler: TurnAssembler | TextAssembler
    last_token_at: float = field(default_factory=time.perf_counter)  # seconds


class Generation:
    """Sequences that run side by side; their choices are numbered in the order of `add`."""

    def __init__(self, client: EngineClient, metrics: Metrics, request_id: str) -> None:
        self.choices: list[Choice] = []
        self._client = client
        self._metrics = metrics
        self._request_id = request_id
        self._prompt_tokens: list[int] = []  # of each prompt
        self._cached_tokens: list[int] = []  # of which cached

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        assemblers: Sequence[TurnAssembler | TextAssembler],
        constraint: Constraint | None = None,
    ) -> None:
        """Start a sequence of the same prompt for each of `assemblers`, held to `constraint`.

        Raises:
            RequestError: the engine refuses it; sequences already added are dropped with this.
        """
        self._prompt_tokens.append(len(prompt))
        self._cached_tokens.append(0)
        for number, assembler in enumerate(assemblers):
            index = len(self.choices)
            own = params
            if number and params.seed is not None:
                own = msgspec.structs.replace(params, seed=seed_of_choice(params, number))
            stream = self._client.generate(f"{self._request_id}-{index}", prompt, own, constraint)
            self.choices.append(Choice(index, len(self._prompt_tokens) - 1, stream, assembler))

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        return Usage(
            prompt_tokens=sum(self._prompt_tokens),
            cached_tokens=sum(self._cached_tokens),
            completion_tokens=sum(c.assembler.completion_tokens for c in self.choices),
            reasoning_tokens=sum(c.assembler.reasoning_tokens for c in self.choices),
        )

    async def run(self) -> AsyncGenerator[tuple[Choice, list[Delta]], None]:
        """Deltas as they come, until every choice has its finish reason.

        An item without deltas appears only when it brings a choice's finish reason.

        Raises:
            RequestError: a sequence failed; the others are stopped.
        """
        items = self._one(self.choices[0]) if len(self.choices) == 1 else self._all()
        try:
            async for choice, chunk in items:
                self._observe(choice, chunk)
                deltas = choice.assembler.feed(chunk)
                finished = choice.assembler.finish_reason is not None
                if finished:
                    # A stop string ends the turn before the engine knows of it.
                    await choice.stream.aclose()
                if deltas or finished:
                    yield choice, deltas
        finally:
            await items.aclose()
            for choice in self.choices:
                await choice.stream.aclose()
            self._metrics.reasoning_tokens.inc(self.usage.reasoning_tokens)

    async def _one(self, choice: Choice) -> AsyncGenerator[tuple[Choice, Chunk], None]:
        complete = False
        async for chunk in choice.stream:
            complete = chunk.finish_reason is not None
            yield choice, chunk
        if not complete and choice.assembler.finish_reason is None:
            raise EngineUnavailable("The engine gave this request up; please retry.")

    async def _all(self) -> AsyncGenerator[tuple[Choice, Chunk], None]:
        queue: asyncio.Queue[tuple[Choice, Chunk] | Exception | None] = asyncio.Queue()

        async def pump(choice: Choice) -> None:
            try:
                async for item in self._one(choice):
                    queue.put_nowait(item)
            except Exception as error:
                queue.put_nowait(error)
            queue.put_nowait(None)

        pumps = [asyncio.create_task(pump(choice)) for choice in self.choices]
        try:
            running = len(pumps)
            while running:
                item = await queue.get()
                if item is None:
                    running -= 1
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            for task in pumps:
                task.cancel()

    def _observe(self, choice: Choice, chunk: Chunk) -> None:
        cached = self._cached_tokens
        cached[choice.prompt] = max(cached[choice.prompt], chunk.cached_tokens)
        count = len(chunk.token_ids)
        if not count:
            return
        now = time.perf_counter()
        elapsed, choice.last_token_at = now - choice.last_token_at, now
        if choice.assembler.completion_tokens == 0:
            self._metrics.first_token.observe(elapsed)
            count, elapsed = count - 1, 0.0  # what came with it took no time of its own
        for _ in range(count):
            self._metrics.inter_token.observe(elapsed / count)
