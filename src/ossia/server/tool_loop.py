"""The turns of one answer: the model speaks, the server runs what it called, the model goes on.

Whatever happens in a tool becomes the tool's answer, and the turn goes on. The loop ends with an
answer, with calls that the client has to run or to approve, or when tokens run out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

import msgspec

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    ReasoningText,
    TurnAssembler,
    VisibleText,
)
from ossia.answer.finish import FinishDetails, TurnFinish
from ossia.errors import ContextLengthExceeded
from ossia.harmony.grammar import FieldPaths
from ossia.harmony.prompt import render_prompt
from ossia.sampling import SamplingParams
from ossia.server.constrained import constrained_turn
from ossia.server.generation import Generation
from ossia.server.service import Service
from ossia.server.toolset import Offer, Toolset
from ossia.server.truncation import without_oldest
from ossia.server.turn_memory import ConversationKey, SentTurn
from ossia.server.usage import Usage
from ossia.tools.runner import run_call
from ossia.tools.tool import CallContext, ToolOutput
from ossia.turn import GeneratedTokens, Item, ToolCall, ToolResult, Turn

MAX_SERVER_CALLS = 64  # of one answer, where the request sets no limit
_RESERVE = 1_024  # tokens kept for the answer where a conversation is truncated
_NOT_RUN = "This call was not run: the limit of {limit} tool calls for one answer is reached."


@dataclass(frozen=True, slots=True)
class CallProgress:
    """Partial output of a call that runs."""

    call_id: str
    text: str


@dataclass(frozen=True, slots=True)
class CallDone:
    """A call that the server ran, or did not run, has its output."""

    call_id: str
    output: ToolOutput


LoopEvent = Delta | CallProgress | CallDone


@dataclass(frozen=True, slots=True)
class LoopLimits:
    """What one answer may cost."""

    max_output_tokens: int | None = None  # of all turns together
    max_tool_calls: int = MAX_SERVER_CALLS  # that the server runs
    max_reasoning_tokens: int | None = None  # of each turn
    truncate: bool = False  # a conversation that is too long loses its oldest exchanges


class ToolLoop:
    """One answer. `start` refuses what cannot be answered, `run` brings the rest.

    Attributes:
        added: what the answer adds to the conversation, with the tokens of the model.
        finish_reason: set when `run` has ended.
        finish_details: what there is to say beyond it.
    """

    def __init__(
        self,
        service: Service,
        identifier: str,
        turn: Turn,
        toolset: Toolset,
        params: SamplingParams,
        *,
        session: str,
        limits: LoopLimits = LoopLimits(),
        paths: FieldPaths,
        pending: Sequence[ToolCall] = (),
    ) -> None:
        """`pending` are calls at the end of the conversation that the server is to run first."""
        self.added: list[Item] = []
        self.finish_reason: TurnFinish | None = None
        self.finish_details: FinishDetails | None = None
        self._service = service
        self._identifier = identifier
        self._turn = turn
        self._toolset = toolset
        self._params = params
        self._session = session
        self._limits = limits
        self._paths = paths
        self._pending = list(pending)
        self._spent = Usage(0, 0, 0, 0)
        self._calls_left = limits.max_tool_calls
        self._rounds = 0
        self._current: _Round | None = None

    @property
    def usage(self) -> Usage:
        """What was spent so far, all turns together."""
        current = self._current
        return self._spent if current is None else self._spent + current.generation.usage

    async def start(self) -> None:
        """Check the request, and put its first turn into the engine unless a call comes first.

        Raises:
            RequestError: it cannot be answered.
        """
        if self._pending:
            await constrained_turn(self._service, self._turn, self._paths, self._limit())
        else:
            self._current = await self._begin()

    async def run(self) -> AsyncGenerator[LoopEvent, None]:
        """Everything that happens, in order, until the answer ends.

        Raises:
            RequestError: the engine failed.
        """
        if self._pending:
            running = self._run_calls(self._pending)
            try:
                async for event in running:
                    yield event
            finally:
                await running.aclose()
        while True:
            if self._current is None:
                try:
                    self._current = await self._begin()
                except ContextLengthExceeded as error:
                    self.finish_reason = "length"
                    self.finish_details = FinishDetails("max_tokens", error.message)
                    return
            current = self._current
            speaking = self._speak(current)
            try:
                async for delta in speaking:
                    yield delta
            finally:
                await speaking.aclose()
            self._end(current)
            calls = current.calls()
            here = [call for call in calls if self._runs_here(call)]
            if here and self.finish_reason == "tool_calls":
                running = self._run_calls(here)
                try:
                    async for event in running:
                        yield event
                finally:
                    await running.aclose()
            if self.finish_reason != "tool_calls" or len(here) < len(calls):
                return
            if self._tokens_left() == 0:
                self.finish_reason = "length"
                self.finish_details = FinishDetails(
                    "max_tokens", "The tokens of this answer were used up before its end."
                )
                return

    async def stop(self) -> None:
        """Take the turn out of the engine that was put there and will not be run."""
        if self._current is not None:
            for choice in self._current.generation.choices:
                await choice.stream.aclose()

    async def _begin(self) -> _Round:
        service = self._service
        turn = dataclasses.replace(self._offered(), items=(*self._turn.items, *self.added))
        service.admit(1)  # before the work of compiling, and again when that is done
        constraint = await constrained_turn(service, turn, self._paths, self._limit())
        recalled = service.memory.recall(turn.items)
        turn = dataclasses.replace(turn, items=recalled.items)
        left = self._tokens_left()
        room = service.engine.info.max_model_len
        if self._limits.truncate:
            reserve = min(left or _RESERVE, room // 4)
            turn = without_oldest(turn, service.tokenizer, room - reserve)
        service.admit(1)
        prompt = render_prompt(turn, service.tokenizer)
        if self._limits.truncate and left is not None:
            left = max(1, min(left, room - len(prompt)))  # who wants more gets what there is
        params = msgspec.structs.replace(self._params, max_tokens=left)
        names = tuple(self._toolset.offers)
        assembler = TurnAssembler(service.tokenizer, names, by_message=True)
        identifier = f"{self._identifier}-{self._rounds}"
        generation = Generation(service.engine, service.metrics, identifier)
        generation.add(prompt, params, [assembler], constraint)
        self._rounds += 1
        return _Round(generation, assembler, recalled.key)

    def _offered(self) -> Turn:
        """The turn with the tools that may be called in this round."""
        turn = self._turn
        choice = turn.tool_choice
        if self._rounds and choice.mode == "required":
            choice = dataclasses.replace(choice, mode="auto")  # it was called
        if self._calls_left <= 0 and self._toolset.runs_on_server:
            left = self._toolset.without_server_tools(choice)
            if self._service.grammars is not None:
                choice = left
            else:  # nothing holds the model to a choice, so that it is not shown the others
                tools = tuple(tool for tool in turn.tools if tool.name in (left.names or ()))
                turn = dataclasses.replace(turn, tools=tools, builtins=())
        return dataclasses.replace(turn, tool_choice=choice)

    def _limit(self) -> int | None:
        return self._limits.max_reasoning_tokens

    def _tokens_left(self) -> int | None:
        wanted = self._limits.max_output_tokens
        return None if wanted is None else max(0, wanted - self.usage.completion_tokens)

    async def _speak(self, current: _Round) -> AsyncGenerator[Delta, None]:
        running = current.generation.run()
        try:
            async for _, deltas in running:
                current.fold(deltas)
                for delta in deltas:
                    yield delta
        finally:
            await running.aclose()

    def _end(self, current: _Round) -> None:
        assembler = current.assembler
        self.finish_reason = assembler.finish_reason
        self.finish_details = assembler.finish_details
        self._spent = self._spent + current.generation.usage
        self._current = None
        if assembler.token_ids:
            self.added.append(GeneratedTokens(tuple(assembler.token_ids)))
        if assembler.is_whole:
            self._service.memory.remember(current.answers, current.as_sent())

    def _runs_here(self, call: ToolCall) -> bool:
        offer = self._toolset.offers[call.name]
        return offer.kind == "server" and not offer.needs_approval

    async def _run_calls(
        self, calls: Sequence[ToolCall]
    ) -> AsyncGenerator[CallProgress | CallDone, None]:
        """Run them side by side; their results stand in the conversation in the calls' order."""
        events: asyncio.Queue[CallProgress | CallDone | Exception] = asyncio.Queue()
        loop, own_thread = asyncio.get_running_loop(), threading.get_ident()

        def tell(event: CallProgress) -> None:
            if threading.get_ident() == own_thread:
                events.put_nowait(event)
            else:  # of a function that runs in a thread
                loop.call_soon_threadsafe(events.put_nowait, event)

        async def one(call: ToolCall, offer: Offer) -> None:
            try:
                await answered(call, offer)
            except Exception as error:  # a fault of ours, which nobody else would hear of
                events.put_nowait(error)

        async def answered(call: ToolCall, offer: Offer) -> None:
            assert offer.tool is not None
            context = CallContext(
                self._session, lambda text: tell(CallProgress(call.call_id, text))
            )
            started = time.perf_counter()
            output = await run_call(offer.tool, call.arguments, context)
            known = any(tool is offer.tool for tool in self._service.tools.own())
            self._service.metrics.tool_seconds.labels(
                offer.tool.name if known else "other", "failed" if output.is_error else "completed"
            ).observe(time.perf_counter() - started)
            events.put_nowait(CallDone(call.call_id, output))

        tasks = []
        outputs: dict[str, ToolOutput] = {}
        for call in calls:
            if self._calls_left > 0:
                self._calls_left -= 1
                tasks.append(asyncio.create_task(one(call, self._toolset.offers[call.name])))
            else:
                text = _NOT_RUN.format(limit=self._limits.max_tool_calls)
                events.put_nowait(CallDone(call.call_id, ToolOutput(text, is_error=True)))
        try:
            while len(outputs) < len(calls):
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, CallDone):
                    outputs[event.call_id] = event.output
                elif event.call_id in outputs:
                    continue  # of a tool that goes on although its call is over
                yield event
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            text = outputs[call.call_id].text
            builtin = self._toolset.offers[call.name].is_builtin
            self.added.append(ToolResult(call.call_id, call.name, text, builtin))


@dataclass(slots=True)
class _Round:
    """One turn of the model."""

    generation: Generation
    assembler: TurnAssembler
    answers: ConversationKey
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    started: list[CallStart] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)

    def fold(self, deltas: Sequence[Delta]) -> None:
        for delta in deltas:
            match delta:
                case ReasoningText(text):
                    self.reasoning.append(text)
                case VisibleText(text):
                    self.content.append(text)
                case CallStart():
                    self.started.append(delta)
                    self.arguments.append([])
                case CallArguments(_, text):
                    self.arguments[-1].append(text)

    def calls(self) -> list[ToolCall]:
        return [
            ToolCall(start.call_id, start.name, "".join(parts))
            for start, parts in zip(self.started, self.arguments, strict=True)
        ]

    def as_sent(self) -> SentTurn:
        content, reasoning = "".join(self.content), "".join(self.reasoning)
        return SentTurn(self.assembler.token_ids, content, reasoning, self.calls())
