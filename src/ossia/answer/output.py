"""The whole answer to a prompt: what `LLM` returns, and the fold that it comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    ReasoningText,
    TextAssembler,
    TurnAssembler,
    VisibleText,
)
from ossia.answer.finish import FinishDetails
from ossia.engine.messages import Chunk, Constraint, PhaseCut, TokenLogprobs
from ossia.errors import RequestError
from ossia.sampling import SamplingParams
from ossia.turn import ToolCall

OutputReason = Literal["stop", "length", "tool_calls", "error"]


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """The answer to one prompt, or one of its n answers."""

    text: str  # for the user
    reasoning: str  # chain of thought; "" for raw completions
    tool_calls: list[ToolCall]
    finish_reason: OutputReason
    token_ids: list[int]  # all that was generated, stop tokens included
    prompt_token_ids: list[int]
    cached_tokens: int  # of the prompt, found in the prefix cache
    reasoning_tokens: int  # of token_ids
    logprobs: list[TokenLogprobs] | None = None  # one for each of token_ids, if asked for
    error: str | None = None  # a sentence, with finish reason "error"
    reasoning_cut: PhaseCut | None = None  # why the reasoning was ended, if it was
    finish_details: FinishDetails | None = None  # what there is to say beyond the reason

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def completion_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(slots=True)
class OpenAnswer:
    """One sequence on its way: the fold of its deltas."""

    prompt: list[int]
    params: SamplingParams
    assembler: TurnAssembler | TextAssembler
    constraint: Constraint | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[CallStart] = field(default_factory=list)
    arguments: list[list[str]] = field(default_factory=list)
    cached_tokens: int = 0
    error: str | None = None
    cut: PhaseCut | None = None

    def feed(self, chunk: Chunk) -> bool:
        """Take what came; True when this was the end."""
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs or ()
        self.cached_tokens = chunk.cached_tokens
        self.cut = self.cut or chunk.cut
        try:
            self._fold(self.assembler.feed(chunk))
        except RequestError as error:
            self.error = error.message
            return True
        return self.assembler.finish_reason is not None

    def _fold(self, deltas: Iterable[Delta]) -> None:
        for delta in deltas:
            match delta:
                case VisibleText(text):
                    self.text.append(text)
                case ReasoningText(text):
                    self.reasoning.append(text)
                case CallStart():
                    self.calls.append(delta)
                    self.arguments.append([])
                case CallArguments(index, text):
                    self.arguments[index].append(text)

    def output(self) -> RequestOutput:
        """The answer as it is now."""
        return RequestOutput(
            text="".join(self.text),
            reasoning="".join(self.reasoning),
            tool_calls=[
                ToolCall(call.call_id, call.name, "".join(arguments))
                for call, arguments in zip(self.calls, self.arguments, strict=True)
            ],
            finish_reason=self.assembler.finish_reason or "error",
            token_ids=self.token_ids,
            prompt_token_ids=self.prompt,
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.assembler.reasoning_tokens,
            logprobs=None if self.params.logprobs is None else self.logprobs,
            error=self.error,
            reasoning_cut=self.cut,
            finish_details=self.assembler.finish_details,
        )
