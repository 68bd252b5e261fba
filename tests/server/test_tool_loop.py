"""The turns of one answer: a model that speaks a script, and real tools between its turns."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from llguidance import LLMatcher

from ossia.answer.assembler import CallStart, VisibleText
from ossia.engine.messages import Chunk, Constraint, EngineInfo, EngineStats, FinishReason
from ossia.engine.stream import TokenStream
from ossia.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest
from ossia.harmony import tokenizer as special
from ossia.harmony.ll_tokenizer import ll_tokenizer, parser_limits
from ossia.harmony.tokenizer import Tokenizer
from ossia.sampling import SamplingParams
from ossia.server import tool_loop
from ossia.server.grammar_threads import GrammarThreads
from ossia.server.metrics import Metrics
from ossia.server.responses.prepare import RESPONSES_PATHS
from ossia.server.server_tools import ServerTools
from ossia.server.tool_loop import CallDone, CallProgress, LoopEvent, LoopLimits, ToolLoop
from ossia.server.toolset import Offer, Toolset, server_offer
from ossia.server.turn_memory import TurnMemory
from ossia.tools.echo import Echo
from ossia.tools.registry import ToolRegistry
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput
from ossia.turn import (
    GeneratedTokens,
    Instructions,
    ToolCall,
    ToolChoice,
    ToolDefinition,
    ToolResult,
    Turn,
    UserMessage,
)

pytestmark = pytest.mark.anyio

PATIENCE = 60  # seconds
MARKERS = {
    f"<|{name}|>": getattr(special, name.upper())
    for name in ("start", "end", "message", "channel", "return", "call")
}
FREE = ToolChoice()
ANYTHING: Mapping[str, Any] = {"type": "object"}


@dataclass
class Said:
    """A turn of the model, in harmony's spelling from after `<|start|>assistant`."""

    text: str
    reason: FinishReason = "stop"


def answer(text: str = "Done.") -> Said:
    return Said(f"<|channel|>final<|message|>{text}<|return|>")


def calls(*written: tuple[str, str]) -> Said:
    """Functions that are called in one turn."""
    parts = [
        f" to=functions.{name}<|channel|>commentary json<|message|>{arguments}"
        for name, arguments in written
    ]
    return Said("<|end|><|start|>assistant".join(parts) + "<|call|>")


def spelled(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokens of a text in which markers such as <|end|> are special."""
    return [
        token
        for part in re.split(r"(<\|[a-z]+\|>)", text)
        for token in ([MARKERS[part]] if part in MARKERS else tokenizer.encode(part))
    ]


@dataclass
class Asked:
    """What the engine was asked for."""

    prompt: str
    params: SamplingParams
    constraint: Constraint | None


class ScriptedEngine:
    """Speaks turn after turn of a script, a few tokens at a time."""

    info = EngineInfo("", "", "", "", None, "", special.VOCAB_SIZE, 4096, 8, [], [])
    num_running = 0

    def __init__(self, tokenizer: Tokenizer, script: Sequence[Said | Exception]) -> None:
        self.asked: list[Asked] = []
        self.abandoned: list[str] = []
        self._tokenizer = tokenizer
        self._script = list(script)

    def tokens(self, text: str) -> list[int]:
        return spelled(self._tokenizer, text)

    def generate(
        self,
        request_id: str,
        prompt: Sequence[int],
        params: SamplingParams,
        constraint: Constraint | None = None,
    ) -> TokenStream:
        said = self._script.pop(0)
        self.asked.append(Asked(self._tokenizer.decode(prompt), params, constraint))
        if isinstance(said, Exception):
            raise said
        stream = TokenStream(request_id, self.abandoned.append)
        tokens = self.tokens(said.text)
        if params.max_tokens is not None:
            tokens = tokens[: params.max_tokens]
        for start in range(0, len(tokens), 3):
            last = start + 3 >= len(tokens)
            part = tokens[start : start + 3]
            stream.put(Chunk(request_id, part, finish_reason=said.reason if last else None))
        return stream


@dataclass
class Stage:
    """What of a server a loop needs."""

    tokenizer: Tokenizer
    grammars: GrammarThreads | None
    engine: ScriptedEngine = field(init=False)
    memory: TurnMemory = field(default_factory=TurnMemory)
    tools: ServerTools = field(default_factory=lambda: ServerTools(ToolRegistry()))
    metrics: Metrics = field(
        default_factory=lambda: Metrics(lambda: EngineStats(), lambda: 0, lambda: 0)
    )

    def admit(self, sequences: int) -> None:
        """There is room."""

    def loop(
        self,
        script: Sequence[Said | Exception],
        *tools: Tool | Offer,
        choice: ToolChoice = FREE,
        **options: Any,
    ) -> ToolLoop:
        self.engine = ScriptedEngine(self.tokenizer, script)
        offers = [server_offer(tool) if isinstance(tool, Tool) else tool for tool in tools]
        toolset = Toolset({offer.name: offer for offer in offers}, choice)
        turn = Turn(
            (Instructions("Be brief."), UserMessage("Go.")),
            tools=toolset.definitions,
            tool_choice=choice,
        )
        return ToolLoop(
            self,  # type: ignore[arg-type]
            "request",
            turn,
            toolset,
            SamplingParams(),
            session="session",
            paths=RESPONSES_PATHS,
            **options,
        )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Iterator[GrammarThreads]:
    threads = GrammarThreads(tokenizer, lambda: None)
    yield threads
    threads.close()


@pytest.fixture
def stage(tokenizer: Tokenizer, grammars: GrammarThreads) -> Stage:
    return Stage(tokenizer, grammars)


@pytest.fixture
def free_stage(tokenizer: Tokenizer) -> Stage:
    """Of a server whose turn grammar is off."""
    return Stage(tokenizer, None)


async def run(loop: ToolLoop) -> list[LoopEvent]:
    """All that happens."""
    async with asyncio.timeout(PATIENCE):
        await loop.start()
        return [event async for event in loop.run()]


def results(loop: ToolLoop) -> list[str]:
    return [item.output for item in loop.added if isinstance(item, ToolResult)]


def done(events: Sequence[LoopEvent]) -> list[ToolOutput]:
    return [event.output for event in events if isinstance(event, CallDone)]


Held = Callable[[Asked, str], bool]
Offered = Callable[[Asked], set[str]]


@pytest.fixture(scope="module")
def may_say(tokenizer: Tokenizer) -> Held:
    """Whether what the engine was asked for may begin with a text."""
    vocabulary = ll_tokenizer(tokenizer)

    def may_say(asked: Asked, text: str) -> bool:
        assert asked.constraint is not None
        matcher = LLMatcher(
            vocabulary, asked.constraint.grammar, log_level=0, limits=parser_limits()
        )
        tokens = spelled(tokenizer, text)
        return bool(matcher.try_consume_tokens(tokens) == len(tokens))

    return may_say


@pytest.fixture(scope="module")
def offered(may_say: Held) -> Offered:
    """The functions that the model can call in a turn."""

    def offered(asked: Asked) -> set[str]:
        names = ("echo", "local", "other")
        return {name for name in names if may_say(asked, f" to=functions.{name}<|channel|>")}

    return offered


class Meet(Tool):
    """Answers when it is called twice at once."""

    name = "meet"
    parameters = ANYTHING

    def __init__(self) -> None:
        self._both = asyncio.Barrier(2)

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        async with asyncio.timeout(PATIENCE):
            place = await self._both.wait()
        # The one that comes last is done first.
        for _ in range(3 * place):
            await asyncio.sleep(0)
        return ToolOutput(f"{arguments['who']} of {context.session}")


class Failing(Tool):
    name = "fail"
    parameters = ANYTHING

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        raise self._error


class Waiting(Tool):
    """Never answers."""

    name = "wait"
    parameters = ANYTHING

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.was_cancelled = False

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        raise AssertionError


def function(name: str) -> Offer:
    """Of the client."""
    return Offer(ToolDefinition(name, parameters=ANYTHING), "function", name)


ECHO = ("echo", '{"text":"a"}')


async def test_an_answer_without_calls_is_one_turn(stage: Stage) -> None:
    loop = stage.loop([answer()], Echo())
    events = await run(loop)
    assert [event.text for event in events if isinstance(event, VisibleText)]
    assert loop.finish_reason == "stop"
    said = tuple(stage.engine.tokens(answer().text))
    assert loop.added == [GeneratedTokens(said)]
    assert loop.usage.completion_tokens == len(said)


async def test_a_result_is_told_and_the_model_goes_on_with_its_own_tokens(stage: Stage) -> None:
    loop = stage.loop([calls(ECHO), answer()], Echo())
    events = await run(loop)
    assert done(events) == [ToolOutput("a")]
    [call, result, end] = loop.added
    assert call == GeneratedTokens(tuple(stage.engine.tokens(calls(ECHO).text)))
    assert isinstance(result, ToolResult)
    assert (result.name, result.output) == ("echo", "a")
    assert end == GeneratedTokens(tuple(stage.engine.tokens(answer().text)))
    prompt = stage.engine.asked[1].prompt
    assert calls(ECHO).text in prompt
    assert "functions.echo to=assistant<|channel|>commentary<|message|>a<|end|>" in prompt


async def test_calls_of_one_turn_run_side_by_side_and_answer_in_order(stage: Stage) -> None:
    both = calls(("meet", '{"who":"first"}'), ("meet", '{"who":"second"}'))
    loop = stage.loop([both, answer()], Meet())
    events = await run(loop)
    assert len(done(events)) == 2
    assert results(loop) == ["first of session", "second of session"]
    started = [event.call_id for event in events if isinstance(event, CallStart)]
    assert [item.call_id for item in loop.added if isinstance(item, ToolResult)] == started


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ToolError("There is no such file."), "There is no such file."),
        (RuntimeError("secret"), "The tool failed: an internal error, which is in its log."),
    ],
)
async def test_what_goes_wrong_in_a_tool_is_its_answer(
    stage: Stage, error: Exception, told: str
) -> None:
    loop = stage.loop([calls(("fail", "{}")), answer()], Failing(error))
    assert done(await run(loop)) == [ToolOutput(told, is_error=True)]
    assert results(loop) == [told]
    assert loop.finish_reason == "stop"


async def test_arguments_that_are_wrong_are_answered(stage: Stage) -> None:
    loop = stage.loop([calls(("echo", '{"txt":1}')), calls(("echo", "[")), answer()], Echo())
    [first, second] = done(await run(loop))
    assert first.is_error
    assert second.is_error
    assert loop.finish_reason == "stop"


async def test_calls_over_the_limit_are_not_run_and_then_not_offered(
    stage: Stage, offered: Offered
) -> None:
    script = [calls(ECHO, ECHO), answer()]
    loop = stage.loop(script, Echo(), function("local"), limits=LoopLimits(max_tool_calls=1))
    events = await run(loop)
    assert sorted(output.is_error for output in done(events)) == [False, True]
    assert results(loop)[0] == "a"
    assert "limit of 1 tool calls" in results(loop)[1]
    assert [offered(asked) for asked in stage.engine.asked] == [{"echo", "local"}, {"local"}]


async def test_the_limit_holds_for_all_turns_together(stage: Stage, offered: Offered) -> None:
    script = [calls(ECHO), calls(ECHO), answer()]
    loop = stage.loop(script, Echo(), limits=LoopLimits(max_tool_calls=2))
    await run(loop)
    assert results(loop) == ["a", "a"]
    assert [offered(asked) for asked in stage.engine.asked] == [{"echo"}, {"echo"}, set()]


async def test_without_a_grammar_tools_over_the_limit_are_not_shown(free_stage: Stage) -> None:
    script = [calls(ECHO), calls(ECHO), answer()]
    limits = LoopLimits(max_tool_calls=1)
    loop = free_stage.loop(script, Echo(), function("local"), limits=limits)
    await run(loop)
    first, *others = [asked.prompt for asked in free_stage.engine.asked]
    assert "type echo = " in first
    assert all("type echo = " not in prompt for prompt in others)
    assert all("type local = " in prompt for prompt in (first, *others))
    assert results(loop)[0] == "a"
    assert "limit of 1 tool calls" in results(loop)[1]


async def test_a_limit_of_nothing_leaves_the_clients_functions(
    stage: Stage, offered: Offered
) -> None:
    loop = stage.loop(
        [calls(("local", "{}"))],
        *(Echo(), function("local"), function("other")),
        choice=ToolChoice("required", ("echo", "local"), builtins=False),
        limits=LoopLimits(max_tool_calls=0),
    )
    await run(loop)
    [asked] = stage.engine.asked
    assert offered(asked) == {"local"}
    assert loop.finish_reason == "tool_calls"


async def test_a_function_of_the_client_ends_the_answer_after_the_servers_calls(
    stage: Stage,
) -> None:
    loop = stage.loop([calls(("local", "{}"), ECHO)], Echo(), function("local"))
    events = await run(loop)
    assert done(events) == [ToolOutput("a")]
    assert loop.finish_reason == "tool_calls"
    assert results(loop) == ["a"]


async def test_a_call_that_needs_approval_is_not_run(stage: Stage) -> None:
    loop = stage.loop([calls(ECHO)], server_offer(Echo(), needs_approval=True))
    assert done(await run(loop)) == []
    assert loop.finish_reason == "tool_calls"


async def test_an_approved_call_runs_before_the_model_speaks(stage: Stage) -> None:
    offer = server_offer(Echo(), needs_approval=True)
    loop = stage.loop([answer()], offer, pending=[ToolCall("mcpr_1", *ECHO)])
    events = await run(loop)
    assert events[0] == CallDone("mcpr_1", ToolOutput("a"))
    assert loop.added[0] == ToolResult("mcpr_1", "echo", "a")
    assert "<|message|>a<|end|>" in stage.engine.asked[0].prompt


async def test_a_request_with_an_approved_call_is_checked_before_the_call(stage: Stage) -> None:
    bad = Offer(ToolDefinition("local", parameters={"type": "nonsense"}, strict=True), "function")
    waiting = Waiting()
    loop = stage.loop([answer()], waiting, bad, pending=[ToolCall("mcpr_1", "wait", "{}")])
    with pytest.raises(InvalidRequest):
        await run(loop)
    assert not waiting.started.is_set()


async def test_a_call_is_required_in_the_first_turn_only(
    stage: Stage, may_say: Held, offered: Offered
) -> None:
    required = ToolChoice("required", ("echo",), builtins=False)
    loop = stage.loop([calls(ECHO), answer()], Echo(), function("local"), choice=required)
    await run(loop)
    first, second = stage.engine.asked
    assert not may_say(first, "<|channel|>final")
    assert may_say(second, "<|channel|>final")
    assert all(offered(asked) == {"echo"} for asked in stage.engine.asked)


async def test_the_tokens_of_all_turns_together_are_limited(stage: Stage) -> None:
    calling = len(spelled(stage.tokenizer, calls(ECHO).text))
    script = [calls(ECHO), Said(answer("a b c d e f g").text, "length")]
    loop = stage.loop(script, Echo(), limits=LoopLimits(calling + 5))
    await run(loop)
    assert [asked.params.max_tokens for asked in stage.engine.asked] == [calling + 5, 5]
    assert loop.finish_reason == "length"
    assert loop.usage.completion_tokens == calling + 5


async def test_an_answer_whose_tokens_are_used_up_by_calls_ends(stage: Stage) -> None:
    calling = len(spelled(stage.tokenizer, calls(ECHO).text))
    loop = stage.loop([calls(ECHO)], Echo(), limits=LoopLimits(calling))
    await run(loop)
    assert loop.finish_reason == "length"
    assert loop.finish_details is not None
    assert results(loop) == ["a"]


async def test_a_call_that_was_cut_off_is_not_run(stage: Stage) -> None:
    cut = Said(calls(ECHO).text.removesuffix('"a"}<|call|>'), "length")
    loop = stage.loop([cut], Echo())
    assert done(await run(loop)) == []
    assert loop.finish_reason == "length"


async def test_a_conversation_that_grew_too_long_ends_the_answer(stage: Stage) -> None:
    full = ContextLengthExceeded("The prompt is too long.")
    loop = stage.loop([calls(ECHO), full], Echo())
    await run(loop)
    assert loop.finish_reason == "length"
    assert loop.finish_details is not None
    assert loop.finish_details.message == "The prompt is too long."
    with pytest.raises(ContextLengthExceeded):  # which is the request's own fault
        await stage.loop([full], Echo()).start()


async def test_a_fault_of_the_engine_is_passed_on(stage: Stage) -> None:
    loop = stage.loop([calls(ECHO), EngineUnavailable("It is gone.")], Echo())
    with pytest.raises(EngineUnavailable):
        await run(loop)


async def test_a_fault_of_ours_in_a_call_ends_the_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> ToolOutput:
        raise AssertionError("broken")

    monkeypatch.setattr(tool_loop, "run_call", broken)
    with pytest.raises(AssertionError, match="broken"):
        await run(stage.loop([calls(ECHO, ECHO)], Echo()))


async def test_a_tool_is_cancelled_with_its_answer(stage: Stage) -> None:
    waiting = Waiting()
    loop = stage.loop([calls(("wait", "{}"))], waiting)
    task = asyncio.create_task(run(loop))
    async with asyncio.timeout(PATIENCE):
        await waiting.started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert waiting.was_cancelled


async def test_a_tool_is_cancelled_when_nobody_asks_for_more(stage: Stage) -> None:
    waiting = Waiting()

    class Telling(Tool):
        name = "tell"
        parameters = ANYTHING

        async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
            await waiting.started.wait()
            return ToolOutput("told")

    loop = stage.loop([calls(("wait", "{}"), ("tell", "{}"))], waiting, Telling())
    await loop.start()
    running = loop.run()
    async with asyncio.timeout(PATIENCE):
        async for event in running:
            if isinstance(event, CallDone):
                break
        await running.aclose()
    assert waiting.was_cancelled


async def test_a_turn_that_is_not_run_is_taken_out_of_the_engine(stage: Stage) -> None:
    loop = stage.loop([Said("<|channel|>final", "stop")], Echo())
    stage.engine.generate = lambda name, *_: TokenStream(name, stage.engine.abandoned.append)  # type: ignore[method-assign]
    await loop.start()
    await loop.stop()
    assert stage.engine.abandoned == ["request-0-0"]


class Counting(Tool):
    """Tells how far it is, from a thread; goes on when the test has heard of it."""

    name = "count"
    parameters = ANYTHING

    def __init__(self) -> None:
        self.heard = threading.Event()

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        context.progress("one")
        return ToolOutput(str(await asyncio.to_thread(self._count, context)))

    def _count(self, context: CallContext) -> bool:
        time.sleep(0.1)  # the event loop has nothing to do by now, and has to be woken
        context.progress("two")
        return self.heard.wait(PATIENCE)


async def test_progress_comes_through_at_once_from_threads_too(stage: Stage) -> None:
    counting = Counting()
    loop = stage.loop([calls(("count", "{}")), answer()], counting)
    await loop.start()
    told: list[str] = []
    async for event in loop.run():
        if isinstance(event, CallProgress):
            told.append(event.text)
            if event.text == "two":
                counting.heard.set()
    assert told == ["one", "two"]
    assert results(loop) == ["True"]


async def test_progress_of_a_call_that_is_over_is_not_passed_on(stage: Stage) -> None:
    kept: list[CallContext] = []
    over = asyncio.Event()

    class Early(Tool):
        name = "early"
        parameters = ANYTHING

        async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
            kept.append(context)
            return ToolOutput("early")

    class Late(Tool):
        name = "late"
        parameters = ANYTHING

        async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
            await over.wait()
            kept[0].progress("still here")
            return ToolOutput("late")

    loop = stage.loop([calls(("early", "{}"), ("late", "{}")), answer()], Early(), Late())
    events: list[LoopEvent] = []

    async def follow() -> AsyncIterator[LoopEvent]:
        await loop.start()
        async for event in loop.run():
            yield event

    async with asyncio.timeout(PATIENCE):
        async for event in follow():
            events.append(event)
            if isinstance(event, CallDone):
                over.set()
    assert not [event for event in events if isinstance(event, CallProgress)]
    assert results(loop) == ["early", "late"]


async def test_a_long_conversation_loses_its_oldest_exchanges(stage: Stage) -> None:
    loop = stage.loop([answer()], limits=LoopLimits(truncate=True))
    long = [UserMessage("old " * 3000), UserMessage("middle"), UserMessage("new")]
    loop._turn = Turn((Instructions("Be brief."), *long))
    await run(loop)
    prompt = stage.engine.asked[0].prompt
    assert "old" not in prompt
    assert "Be brief." in prompt
    assert "middle" in prompt
