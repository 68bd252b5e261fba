"""Token ids of the model to messages, as they come.

The parser is total: it takes any ids, raises on none, and loses no text. What is off the format is
read the way it was most likely meant (`harmony/header.py`). The events do not depend on how the
tokens were split into chunks, but for where a message's text is cut into deltas.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ossia.harmony.header import (
    Channel,
    Header,
    Place,
    Section,
    function_name,
    is_cut_off,
    read_header,
    read_unended_header,
)
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    Tokenizer,
    Utf8Decoder,
)

__all__ = [
    "Channel",
    "Event",
    "HarmonyParser",
    "MessageEnd",
    "MessageStart",
    "TextDelta",
    "function_name",
]

# A header longer than this has lost its <|message|>; what was read is text then.
MAX_HEADER_TOKENS = 128
MAX_HEADER_WORDS = 8

Reason = Literal["end", "return", "call", "eof"]
_REASONS: dict[int, Reason] = {END: "end", RETURN: "return", ENDOFTEXT: "return", CALL: "call"}


@dataclass(frozen=True, slots=True)
class MessageStart:
    """A message begins. A message without a channel counts as `final`."""

    index: int
    channel: Channel
    recipient: str | None  # as written, such as functions.f
    content_type: str | None  # without <|constrain|>
    role: str = "assistant"
    header: str = ""  # as written, markers as their spelling


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the message; a character split over tokens comes with its last token."""

    index: int
    text: str
    tokens: int  # how many tokens this covers; 0 for text found in a header


@dataclass(frozen=True, slots=True)
class MessageEnd:
    """A message ends: by `<|end|>` (or the next message), `<|return|>`, `<|call|>`, or the stream
    ended first (`eof`)."""

    index: int
    reason: Reason


Event = MessageStart | TextDelta | MessageEnd


class HarmonyParser:
    """Reads what the model writes after `<|start|>assistant`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.reasoning_tokens = 0  # text tokens of analysis messages so far
        self._tokenizer = tokenizer
        self._utf8 = Utf8Decoder()
        self._events: list[Event] = []
        self._index = -1
        self._open: Channel | None = None  # channel of the message being read; None: a header is
        self._header = _HeaderTokens("prompt")
        self._bytes = bytearray()  # of the open message, not handed out yet
        self._tokens = 0  # that those bytes, and what the decoder holds back, came from

    def feed(self, token_ids: Iterable[int]) -> list[Event]:
        """Events of these tokens. Ids outside the vocabulary are taken and say nothing."""
        for token in token_ids:
            if self._open is None:
                self._feed_header(token)
            elif 0 <= token < FIRST_SPECIAL:
                self._bytes += self._tokenizer.token_bytes(token)
                self._tokens += 1
            elif token in _REASONS:
                self._close(_REASONS[token])
                self._header = _HeaderTokens("stray")
            elif token in (START, CHANNEL):
                self._close("end")
                self._header = _HeaderTokens("start" if token == START else "stray")
                if token == CHANNEL:
                    self._header.mark("channel")
        self._flush_text(final=False)
        return self._take_events()

    def finish(self) -> list[Event]:
        """Events of the end of generation; the open message ends with reason `eof`."""
        if self._open is None:
            self._end_header("eof")
        else:
            self._close("eof")
        self._header = _HeaderTokens("stray")
        return self._take_events()

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _feed_header(self, token: int) -> None:
        header = self._header
        if 0 <= token < FIRST_SPECIAL:
            header.add(self._tokenizer.token_bytes(token))
            if header.is_too_long():
                self._open_message(
                    read_unended_header(header.sections(), header.place), header.tokens
                )
        elif token == MESSAGE:
            self._open_message(read_header(header.sections(), header.place), 0)
        elif token == CHANNEL:
            header.mark("channel")
        elif token == CONSTRAIN:
            header.mark("constrain")
        elif token == START:
            self._end_header("end")
            self._header = _HeaderTokens("start")
        elif token in _REASONS:
            self._end_header(_REASONS[token])
            self._header = _HeaderTokens("stray")

    def _end_header(self, reason: Reason) -> None:
        """A header stops without <|message|>: a message only if there is something to show."""
        header = read_unended_header(self._header.sections(), self._header.place)
        if reason == "eof" and is_cut_off(header):
            return
        if header.text.strip() or (header.recipient is not None and reason == "call"):
            self._open_message(header, self._header.tokens)
            self._close(reason)

    def _open_message(self, header: Header, tokens_of_text: int) -> None:
        self._index += 1
        self._open = header.channel or "final"
        self._events.append(
            MessageStart(
                index=self._index,
                channel=self._open,
                recipient=header.recipient,
                content_type=header.content_type,
                role=header.role,
                header=header.written,
            )
        )
        if header.text:
            self._emit_text(header.text, tokens_of_text)

    def _emit_text(self, text: str, tokens: int) -> None:
        if self._open == "analysis":
            self.reasoning_tokens += tokens
        self._events.append(TextDelta(self._index, text, tokens))

    def _flush_text(self, *, final: bool) -> None:
        text = self._utf8.feed(bytes(self._bytes))
        self._bytes.clear()
        if final:
            text += self._utf8.flush()
        if text:
            self._emit_text(text, self._tokens)
            self._tokens = 0

    def _close(self, reason: Reason) -> None:
        self._flush_text(final=True)
        self._events.append(MessageEnd(self._index, reason))
        self._open = None


class _HeaderTokens:
    """A header while it is being read, in parts between markers."""

    def __init__(self, place: Place) -> None:
        self.place: Place = place
        self.tokens = 0  # ordinary ones
        self._words = 0  # tokens that begin with a blank
        self._parts: list[tuple[Literal["", "channel", "constrain"], bytearray]] = [
            ("", bytearray())
        ]

    def mark(self, marker: Literal["channel", "constrain"]) -> None:
        self._parts.append((marker, bytearray()))

    def add(self, data: bytes) -> None:
        self.tokens += 1
        self._words += data[:1].isspace()
        self._parts[-1][1].extend(data)

    def is_too_long(self) -> bool:
        """Whether this cannot be a header any more. Never says so inside of a character."""
        if self.tokens <= MAX_HEADER_TOKENS and self._words <= MAX_HEADER_WORDS:
            return False
        decoder = Utf8Decoder()
        decoder.feed(bytes(self._parts[-1][1]))
        return not decoder.pending

    def sections(self) -> list[Section]:
        return [Section(marker, data.decode("utf-8", "replace")) for marker, data in self._parts]
