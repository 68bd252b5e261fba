"""Token chunks of one sequence become what the wire formats are made of.

`TurnAssembler` reads harmony: reasoning, visible text, tool calls. `TextAssembler` takes tokens
as plain text. Both count tokens, apply stop strings to visible text, say how it all ended,
and give the same deltas, joined, for every split of the tokens into chunks.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from ossia.answer.finish import FinishDetails, TurnFinish, finish
from ossia.answer.stop_strings import StopStrings
from ossia.engine.messages import Chunk, PhaseCut, TokenLogprobs
from ossia.errors import EngineUnavailable, InternalError
from ossia.harmony.parser import Channel, HarmonyParser, MessageEnd, MessageStart, function_name
from ossia.harmony.parser import TextDelta as ParsedText
from ossia.harmony.tokenizer import CALL, RETURN, Tokenizer, Utf8Decoder


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token of visible text or of reasoning, with the likeliest tokens at its place."""

    token_id: int
    logprobs: TokenLogprobs


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """More chain of thought. `tokens` only if logprobs were asked for."""

    text: str
    tokens: tuple[TextToken, ...] = ()


@dataclass(frozen=True, slots=True)
class VisibleText:
    """More text for the user: an answer or a preamble. `tokens` only if logprobs were asked for."""

    text: str
    tokens: tuple[TextToken, ...] = ()


@dataclass(frozen=True, slots=True)
class CallStart:
    """The `index`-th call of the turn begins; its id is ours."""

    index: int
    call_id: str
    name: str


@dataclass(frozen=True, slots=True)
class CallArguments:
    """More of the JSON text of the `index`-th call."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageOpened:
    """A message with text begins: chain of thought, an answer, or a preamble before calls."""

    kind: Literal["reasoning", "answer", "preamble"]


@dataclass(frozen=True, slots=True)
class MessageClosed:
    """The message or call that began last has all its text; `whole` unless it was cut off."""

    whole: bool


Delta = ReasoningText | VisibleText | CallStart | CallArguments | MessageOpened | MessageClosed
_NO_TOOL = (None, "assistant", "user", "all")  # recipients that nobody has to answer
_BETWEEN_MESSAGES = "\n\n"  # messages of one kind are joined into one field of the answer


class TurnAssembler:
    """One turn of the assistant, from after `<|start|>assistant`.

    Attributes:
        finish_reason: None while the turn goes on.
        finish_details: what there is to say beyond it, once it is set.
        token_ids: the tokens read, stop tokens included.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        tool_names: Collection[str],
        stop: Sequence[str] = (),
        *,
        by_message: bool = False,
    ) -> None:
        """`tool_names` are the declared tools; `stop` acts on visible text only.

        `by_message`: messages stand apart, each between `MessageOpened` (for a call `CallStart`)
        and `MessageClosed`. Otherwise those of one kind are joined by an empty line.
        """
        self.finish_reason: TurnFinish | None = None
        self.finish_details: FinishDetails | None = None
        self.token_ids: list[int] = []
        self._parser = HarmonyParser(tokenizer)
        self._is_special = tokenizer.is_special
        self._tool_names = tool_names
        self._visible = _VisibleText(stop)
        self._stops = bool(stop)
        self._by_message = by_message
        self._is_open = False  # a message or call was announced and not closed
        self._calls = 0
        self._channel: Channel | None = None  # of the last message that began
        self._cut: PhaseCut | None = None
        self._empty_call = False  # the open call has no arguments so far
        self._kind: Literal["reasoning", "visible", "call"] = "visible"
        self._said: set[str] = set()  # kinds that have had text
        self._separate = False  # before the next text
        self._unclaimed: list[TextToken] = []  # read, and not yet part of a delta

    @property
    def is_whole(self) -> bool:
        """Whether the model ended the turn itself, the way it is done: an answer on `final` with
        `<|return|>`, or calls with `<|call|>`."""
        last = self.token_ids[-1] if self.token_ids else None
        if self.finish_reason == "tool_calls":
            return last == CALL
        return self.finish_reason == "stop" and last == RETURN and self._channel == "final"

    @property
    def completion_tokens(self) -> int:
        """How many tokens were read, stop tokens included."""
        return len(self.token_ids)

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the chain of thought so far."""
        return self._parser.reasoning_tokens

    def feed(self, chunk: Chunk) -> list[Delta]:
        """What the chunk adds. After the finish reason is set, nothing does.

        Raises:
            InternalError: the engine reports a fault of this sequence.
            EngineUnavailable: the engine gave the sequence up.
        """
        if self.finish_reason is not None:
            return []
        _check(chunk)
        self._cut = self._cut or chunk.cut
        deltas: list[Delta] = []
        if self._stops or chunk.logprobs is not None:
            # One at a time, to know which token a text belongs to and where a stop string ended.
            for i, token in enumerate(chunk.token_ids):
                if chunk.logprobs is not None and not self._is_special(token):
                    self._unclaimed.append(TextToken(token, chunk.logprobs[i]))
                self._read([token], deltas)
                if self._visible.stopped:
                    self._close(deltas, whole=True)
                    self._finish("stop")
                    return deltas
        else:
            self._read(chunk.token_ids, deltas)
        if chunk.finish_reason is not None:
            self._handle(self._parser.finish(), deltas)
            deltas += self._visible.flush()
            self._finish(chunk.finish_reason)
        return deltas

    def _finish(self, engine_reason: str) -> None:
        self.finish_reason, self.finish_details = finish(
            engine_reason,
            stopped=self._visible.stopped,
            calls=self._calls,
            channel=self._channel,
            cut=self._cut,
        )

    def _read(self, token_ids: list[int], deltas: list[Delta]) -> None:
        self.token_ids += token_ids
        self._handle(self._parser.feed(token_ids), deltas)

    def _handle(self, events: Sequence[object], deltas: list[Delta]) -> None:
        for event in events:
            match event:
                case MessageStart():
                    self._begin(event, deltas)
                case ParsedText(_, text, tokens):
                    self._say(text, tokens, deltas)
                case MessageEnd(reason=reason):
                    # Only visible text may be waiting for the rest of a stop string.
                    deltas += self._visible.flush()
                    if self._kind == "call" and self._empty_call and reason != "eof":
                        # Clients parse the arguments as JSON, which nothing is not.
                        deltas.append(CallArguments(self._calls - 1, "{}"))
                    self._close(deltas, whole=reason != "eof")

    def _begin(self, message: MessageStart, deltas: list[Delta]) -> None:
        self._channel = message.channel
        name = message.recipient and function_name(message.recipient, self._tool_names)
        if name:
            deltas.append(CallStart(self._calls, f"call_{secrets.token_hex(12)}", name))
            self._calls += 1
            self._kind = "call"
            self._empty_call = True
            self._is_open = True
        elif message.channel == "analysis" and message.recipient in _NO_TOOL:
            self._kind = "reasoning"
        else:
            # Also a call of what was not declared: shown, because nobody could answer it.
            self._kind = "visible"
        self._separate = self._kind in self._said

    def _say(self, text: str, tokens: int, deltas: list[Delta]) -> None:
        claimed: tuple[TextToken, ...] = ()
        if tokens and self._unclaimed:
            claimed = tuple(self._unclaimed[-tokens:])
            self._unclaimed.clear()
        if self._kind == "call":
            if text:
                self._empty_call = self._empty_call and text.isspace()
                deltas.append(CallArguments(self._calls - 1, text))
            return
        if text or claimed:
            self._open(deltas)
        if text:
            self._said.add(self._kind)
            if self._separate and not self._by_message:
                self._separate = False
                as_text = ReasoningText if self._kind == "reasoning" else VisibleText
                deltas.append(as_text(_BETWEEN_MESSAGES))
        if self._kind == "visible":
            deltas += self._visible.add(text, claimed)
        elif text:
            deltas.append(ReasoningText(text, claimed))

    def _open(self, deltas: list[Delta]) -> None:
        if self._by_message and not self._is_open:
            self._is_open = True
            if self._kind == "reasoning":
                deltas.append(MessageOpened("reasoning"))
            else:
                before_calls = self._channel == "commentary"
                deltas.append(MessageOpened("preamble" if before_calls else "answer"))

    def _close(self, deltas: list[Delta], *, whole: bool) -> None:
        if self._by_message and self._is_open:
            deltas.append(MessageClosed(whole))
        self._is_open = False


class TextAssembler:
    """Tokens as plain text, without any format. Attributes as in `TurnAssembler`."""

    reasoning_tokens = 0
    finish_details = None

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), *, show_special: bool = False
    ) -> None:
        """`show_special`: special tokens appear as their spelling."""
        self.finish_reason: TurnFinish | None = None
        self.completion_tokens = 0
        self._tokenizer = tokenizer
        self._show_special = show_special
        self._decoder = Utf8Decoder()
        self._visible = _VisibleText(stop)

    def feed(self, chunk: Chunk) -> list[Delta]:
        """As `TurnAssembler.feed`; only `VisibleText` comes out."""
        if self.finish_reason is not None:
            return []
        _check(chunk)
        deltas: list[Delta] = []
        for i, token in enumerate(chunk.token_ids):
            self.completion_tokens += 1
            logprobs = chunk.logprobs[i] if chunk.logprobs is not None else None
            claimed = () if logprobs is None else (TextToken(token, logprobs),)
            deltas += self._visible.add(self._text(token), claimed)
            if self._visible.stopped:
                self.finish_reason = "stop"
                return deltas
        if chunk.finish_reason is not None:
            deltas += self._visible.add(self._decoder.flush(), ())
            deltas += self._visible.flush()
            self.finish_reason, _ = finish(
                chunk.finish_reason, stopped=self._visible.stopped, channel="final"
            )
        return deltas

    def _text(self, token: int) -> str:
        if self._tokenizer.is_special(token) and not self._show_special:
            return ""
        return self._decoder.feed(self._tokenizer.token_bytes(token))


class _VisibleText:
    """Stop strings applied to text, with each token held back as long as the text it begins."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = StopStrings(stop)
        self._added = 0  # characters
        self._shown = 0  # characters
        self._held: deque[tuple[int, TextToken]] = deque()  # with its first character's place

    @property
    def stopped(self) -> bool:
        return self._stop.matched is not None

    def add(self, text: str, tokens: Sequence[TextToken]) -> list[Delta]:
        """What may be shown of it now: nothing or one delta."""
        self._held.extend((self._added, token) for token in tokens)
        self._added += len(text)
        return self._show(self._stop.feed(text))

    def flush(self) -> list[Delta]:
        """What was held back, because no more text can follow."""
        return self._show(self._stop.flush())

    def _show(self, text: str) -> list[Delta]:
        self._shown += len(text)
        tokens = []
        # All that is known is shown: then also tokens that are only a part of a character.
        everything = self._shown == self._added
        while self._held and (everything or self._held[0][0] < self._shown):
            tokens.append(self._held.popleft()[1])
        if self.stopped:
            self._held.clear()
        return [VisibleText(text, tuple(tokens))] if text or tokens else []


def _check(chunk: Chunk) -> None:
    if chunk.finish_reason == "error":
        raise InternalError(chunk.error or "The engine could not finish this request.")
    if chunk.finish_reason == "abort":
        raise EngineUnavailable("The engine gave this request up; please retry.")
