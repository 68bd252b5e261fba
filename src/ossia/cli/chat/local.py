"""Answers from an engine in this process."""

from __future__ import annotations

import contextlib
import itertools
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

from ossia.answer.assembler import CallArguments, CallStart, Delta, TurnAssembler, VisibleText
from ossia.answer.assembler import ReasoningText as ReasoningDelta
from ossia.answer.constraint import turn_constraint
from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText
from ossia.config import EngineConfig
from ossia.engine.checks import check_request
from ossia.engine.messages import Generate
from ossia.engine.start import start_engine
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.sampling import SamplingParams
from ossia.turn import Turn


class LocalBackend:
    """Loads the model of `config`; `progress` is told what happens meanwhile.

    Raises:
        StartupError: the model cannot be loaded as configured.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        sampling: SamplingParams,
        progress: Callable[[str], None],
    ) -> None:
        self._tokenizer = Tokenizer()
        self._core = start_engine(
            config, progress, ll_tokenizer=lambda: self._grammars.result().ll_tokenizer
        )
        # Takes about a second, while the user writes.
        self._grammars = ThreadPoolExecutor(1).submit(GrammarCompiler, self._tokenizer)
        self._sampling = sampling
        self._numbers = itertools.count()
        self.name = self._core.info.model

    def answer(self, turn: Turn) -> Generator[ChatEvent]:
        """Run the engine step by step until the answer is finished."""
        prompt = render_prompt(turn, self._tokenizer)
        constraint = None
        if not self._sampling.ignore_eos:
            constraint = turn_constraint(self._grammars.result(), turn)
        check_request(prompt, self._sampling, self._core.info)
        assembler = TurnAssembler(self._tokenizer, [tool.name for tool in turn.tools])
        calls: list[Call] = []
        request_id = str(next(self._numbers))
        self._core.add(Generate(request_id, prompt, self._sampling, constraint))
        try:
            while assembler.finish_reason is None:
                with _interrupt_held_back():
                    output = self._core.step()
                for chunk in output.chunks:
                    yield from _events(assembler.feed(chunk), calls)
        finally:
            self._core.abort([request_id])
        yield from calls
        yield Finished(assembler.finish_reason, assembler.completion_tokens)

    def close(self) -> None:
        """Nothing outlives this process."""


def _events(deltas: list[Delta], calls: list[Call]) -> Iterator[ChatEvent]:
    """Texts as events; calls are gathered in `calls`, because only whole ones are events."""
    for delta in deltas:
        match delta:
            case ReasoningDelta(text):
                yield ReasoningText(text)
            case VisibleText(text):
                yield AnswerText(text)
            case CallStart(_, call_id, name):
                calls.append(Call(call_id, name, ""))
            case CallArguments(index, text):
                call = calls[index]
                calls[index] = Call(call.call_id, call.name, call.arguments + text)


@contextlib.contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Ctrl-C inside is raised at the end, so that a step of the engine is never cut in two."""
    interrupted = False

    def note(*_: object) -> None:
        nonlocal interrupted
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted:
        raise KeyboardInterrupt
