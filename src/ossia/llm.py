"""gpt-oss from Python: an engine in this process, whole batches in and out.

Example:
    >>> from ossia import LLM, SamplingParams
    >>> llm = LLM("demo")
    >>> conversation = [{"role": "user", "content": "Who are you?"}]
    >>> [output] = llm.chat([conversation], SamplingParams(temperature=0), use_tqdm=False)
    >>> print(output.finish_reason)
    stop
"""

from __future__ import annotations

import dataclasses
import datetime
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import msgspec
from tqdm.auto import tqdm

from ossia.answer.assembler import (
    TextAssembler,
    TurnAssembler,
)
from ossia.answer.constraint import turn_constraint
from ossia.answer.output import OpenAnswer, RequestOutput
from ossia.config import EngineConfig
from ossia.engine.checks import check_constraint, check_request
from ossia.engine.core import EngineCore
from ossia.engine.messages import (
    Constraint,
    EngineInfo,
    EngineStats,
    Generate,
)
from ossia.engine.start import start_engine
from ossia.errors import InvalidRequest, RequestError
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.sampling import MAX_SEED, SamplingParams
from ossia.turn import OutputFormat, ToolChoice, Turn

logger = logging.getLogger(__name__)

Prompt = str | Sequence[int]
Message = Mapping[str, Any]  # as in Chat Completions: role, content, tool_calls, ...
Conversation = Sequence[Message]


class LLM:
    """A gpt-oss model in this process. Not for use from several threads at once."""

    def __init__(
        self,
        model: str = "demo",
        *,
        turn_grammar: bool = True,
        progress: Callable[[str], None] = logger.info,
        **engine_options: Any,
    ) -> None:
        """Load a model; takes seconds, or minutes for a large one.

        Args:
            model: "demo", a directory, or a hub name such as openai/gpt-oss-20b.
            turn_grammar: `chat` lets the model write nothing but a well-formed turn.
            progress: is given a line for each step.
            engine_options: the other fields of `ossia.config.EngineConfig`, such as device, dtype,
                max_model_len or kv_cache_memory.

        Raises:
            StartupError: the model cannot be loaded as asked for; says what to change.
            TypeError: an option that does not exist.
        """
        self._core: EngineCore = start_engine(
            EngineConfig(model=model, **engine_options),
            progress,
            ll_tokenizer=lambda: self._grammars.ll_tokenizer,
        )
        self._turn_grammar = turn_grammar
        self._requests = 0

    @property
    def info(self) -> EngineInfo:
        """What the engine turned out to be."""
        return self._core.info

    @property
    def stats(self) -> EngineStats:
        """Gauges and counters of the engine."""
        return self._core.stats

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The o200k_harmony vocabulary."""
        return Tokenizer()

    @cached_property
    def _grammars(self) -> GrammarCompiler:
        # Takes about a second, and raw completions have no use for it.
        return GrammarCompiler(self.tokenizer)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        n: int = 1,
        stop: str | Sequence[str] = (),
        constraint: Constraint | Sequence[Constraint | None] | None = None,
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Continue text or token ids as they are, without any chat format.

        Args:
            prompts: one prompt or several; special tokens can be given as ids only.
            sampling_params: for all prompts, or one for each.
            n: answers to each prompt; they stand next to each other in the result. With a seed,
                answer i uses seed + i.
            stop: strings that end the text where one of them begins.
            constraint: a grammar that answers follow from their first token on, for all prompts or
                one for each.
            use_tqdm: show a progress bar.

        Raises:
            InvalidRequest: a prompt or parameter is out of range; nothing was run.
            ContextLengthExceeded: a prompt leaves no room; nothing was run.
        """
        single = isinstance(prompts, str) or (bool(prompts) and isinstance(prompts[0], int))
        many: Sequence[Any] = [prompts] if single else prompts
        ids = [self.tokenizer.encode(p) if isinstance(p, str) else list(p) for p in many]
        strings = _stop_strings(stop)
        return self._run(
            ids,
            sampling_params,
            _constraint_each(constraint, len(ids)),
            n,
            lambda _: TextAssembler(self.tokenizer, strings),
            use_tqdm,
        )

    def chat(
        self,
        conversations: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        tool_choice: ToolChoice | None = None,
        parallel_tool_calls: bool = True,
        output: OutputFormat | None = None,
        reasoning_effort: str = "medium",
        max_reasoning_tokens: int | None = None,
        date: datetime.date | None = None,
        n: int = 1,
        stop: str | Sequence[str] = (),
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        """Answer conversations in the form of Chat Completions.

        The turn grammar is applied unless it is turned off or the sampling parameters ignore the
        model's stop tokens; reasoning that repeats itself is then cut short.

        Args:
            conversations: one list of messages or several.
            sampling_params: for all conversations, or one for each.
            tools: functions that the model may call, as in Chat Completions.
            tool_choice: whether a function has to be called, and which ones may be.
            parallel_tool_calls: several functions may be called at once.
            output: what the answer's text must be; None is free text.
            reasoning_effort: low, medium or high.
            max_reasoning_tokens: reasoning ends after so many; None is no limit.
            date: stands in the system message; None leaves it out, so that prompts do not change
                from day to day.
            n: answers to each conversation, as in `generate`.
            stop: strings that end the visible text where one of them begins.
            use_tqdm: show a progress bar.

        Raises:
            InvalidRequest: a message, tool or parameter is wrong; nothing was run.
            ContextLengthExceeded: a conversation leaves no room; nothing was run.
        """
        single = bool(conversations) and isinstance(conversations[0], Mapping)
        many: Sequence[Any] = [conversations] if single else conversations
        turns = [
            dataclasses.replace(
                _turn(messages, tools, reasoning_effort, date),
                tool_choice=tool_choice or ToolChoice(),
                parallel_tool_calls=parallel_tool_calls,
                output=output,
            )
            for messages in many
        ]
        parameters = _one_each(sampling_params, len(turns))
        constraints = [
            None if params.ignore_eos else constraint
            for params, constraint in zip(
                parameters, self._constraints(turns, max_reasoning_tokens), strict=True
            )
        ]
        prompts = [render_prompt(turn, self.tokenizer) for turn in turns]
        strings = _stop_strings(stop)

        def assembler(number: int) -> TurnAssembler:
            names = tuple(tool.name for tool in turns[number].tools)
            return TurnAssembler(self.tokenizer, names, strings)

        return self._run(prompts, parameters, constraints, n, assembler, use_tqdm)

    def _constraints(
        self, turns: Sequence[Turn], max_reasoning_tokens: int | None
    ) -> list[Constraint | None]:
        if not self._turn_grammar:
            if max_reasoning_tokens is not None:
                _needs_grammar("max_reasoning_tokens")
            if any(turn.output is not None for turn in turns):
                _needs_grammar("output")
            if any(turn.tool_choice != ToolChoice() for turn in turns):
                _needs_grammar("tool_choice")
            return [None] * len(turns)
        if max_reasoning_tokens is not None and max_reasoning_tokens < 0:
            raise InvalidRequest(
                "max_reasoning_tokens must be 0 or more.", param="max_reasoning_tokens"
            )
        return [
            turn_constraint(self._grammars, turn, max_reasoning_tokens=max_reasoning_tokens)
            for turn in turns
        ]

    def _run(
        self,
        prompts: Sequence[list[int]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None,
        constraints: Sequence[Constraint | None],
        n: int,
        assembler: Callable[[int], TurnAssembler | TextAssembler],
        use_tqdm: bool,
    ) -> list[RequestOutput]:
        if n < 1:
            raise InvalidRequest("n must be 1 or more.", param="n")
        parameters = _one_each(sampling_params, len(prompts))
        answers: dict[str, OpenAnswer] = {}
        for number, (prompt, params, constraint) in enumerate(
            zip(prompts, parameters, constraints, strict=True)
        ):
            _check(number, prompt, params, constraint, self.info)
            for choice in range(n):
                request_id = f"{self._requests}"
                self._requests += 1
                answers[request_id] = OpenAnswer(
                    prompt, _choice(params, choice), assembler(number), constraint
                )
        try:
            for request_id, answer in answers.items():
                self._core.add(
                    Generate(request_id, answer.prompt, answer.params, answer.constraint)
                )
            self._finish(answers, use_tqdm)
        finally:
            self._core.abort(answers)
        return [answer.output() for answer in answers.values()]

    def _finish(self, answers: Mapping[str, OpenAnswer], use_tqdm: bool) -> None:
        tokens = 0
        with tqdm(total=len(answers), unit="answer", disable=not use_tqdm) as bar:
            while self._core.has_work:
                for chunk in self._core.step().chunks:
                    tokens += len(chunk.token_ids)
                    if answers[chunk.request_id].feed(chunk):
                        bar.update()
                        if chunk.finish_reason is None:  # a stop string, unknown to the engine
                            self._core.abort([chunk.request_id])
                if use_tqdm:
                    seconds = bar.format_dict["elapsed"]
                    rate = f"{tokens / seconds:.0f} tokens/s" if seconds else ""
                    bar.set_postfix_str(rate, refresh=False)


def _turn(
    messages: Conversation,
    tools: Sequence[Mapping[str, Any]],
    effort: str,
    date: datetime.date | None,
) -> Turn:
    # Imported here: pydantic is of no use to raw completions.
    from pydantic import ValidationError

    from ossia.server.chat_turn import chat_turn
    from ossia.server.schema.chat import ChatRequest

    body = {
        "messages": [dict(message) for message in messages],
        "tools": [dict(tool) for tool in tools] or None,
        "reasoning_effort": effort,
    }
    try:
        request = ChatRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        raise InvalidRequest(f"{path}: {first['msg']}.", param=path) from None
    return chat_turn(request.messages, request, date)


def _needs_grammar(name: str) -> NoReturn:
    raise InvalidRequest(
        f"{name} needs the turn grammar; construct the LLM with turn_grammar=True.", param=name
    )


def _check(
    number: int,
    prompt: list[int],
    params: SamplingParams,
    constraint: Constraint | None,
    info: EngineInfo,
) -> None:
    try:
        check_request(prompt, params, info)
        check_constraint(constraint, params, info.vocab_size)
    except RequestError as error:
        error.message = f"Prompt {number}: {error.message}"
        error.args = (error.message,)
        raise


def _one_each(
    given: SamplingParams | Sequence[SamplingParams] | None, count: int
) -> Sequence[SamplingParams]:
    if given is None or isinstance(given, SamplingParams):
        return [given or SamplingParams()] * count
    if len(given) != count:
        raise InvalidRequest(
            f"There are {count} prompts and {len(given)} sampling_params; give one for all or "
            "one for each.",
            param="sampling_params",
        )
    return given


def _constraint_each(
    given: Constraint | Sequence[Constraint | None] | None, count: int
) -> Sequence[Constraint | None]:
    if given is None or isinstance(given, Constraint):
        return [given] * count
    if len(given) != count:
        raise InvalidRequest(
            f"There are {count} prompts and {len(given)} constraints; give one for all or one for "
            "each.",
            param="constraint",
        )
    return given


def _choice(params: SamplingParams, number: int) -> SamplingParams:
    if not number or params.seed is None:
        return params
    return msgspec.structs.replace(params, seed=(params.seed + number) & MAX_SEED)


def _stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if "" in strings:
        raise InvalidRequest("stop has an empty string; leave it out.", param="stop")
    return strings
