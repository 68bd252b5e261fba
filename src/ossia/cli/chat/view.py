"""How an answer looks: on a terminal with dimmed reasoning, in a pipe as the bare answer."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.text import Text

from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText

# A model may write anything; only line breaks and tabs may reach the terminal as control codes.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class View(Protocol):
    """Shows what happens in a conversation."""

    def start(self) -> None:
        """A question is about to be answered."""
        ...

    def show(self, event: ChatEvent) -> None:
        """Show one event of an answer."""
        ...

    def tool_result(self, output: str) -> None:
        """Show what a function gave back."""
        ...

    def end(self, note: str = "") -> None:
        """Finish the answer; `note` says why, if it was cut short."""
        ...

    def notice(self, text: str) -> None:
        """Say something that is not from the model."""
        ...


@dataclass(slots=True)
class AnswerClock:
    """What an answer took, calls of functions included; times in seconds of one clock."""

    started: float
    first: float | None = None  # first piece that could be shown
    tokens: int = 0

    def summary(self, now: float) -> str:
        """Such as `25 tokens in 0.50 s, 50.0 tokens/s, first after 0.12 s`."""
        seconds = now - self.started
        if self.first is None or not self.tokens or seconds <= 0:
            return ""
        count = "1 token" if self.tokens == 1 else f"{self.tokens} tokens"
        return (
            f"{count} in {seconds:.2f} s, {self.tokens / seconds:.1f} tokens/s, "
            f"first after {self.first - self.started:.2f} s"
        )


class TerminalView:
    """Reasoning dimmed, calls in colour, a line of figures after each answer."""

    def __init__(self, console: Console, *, show_reasoning: bool) -> None:
        self._console = console
        self._show_reasoning = show_reasoning
        self._clock = AnswerClock(time.monotonic())
        self._open: type[ChatEvent] | None = None  # kind of text that the cursor stands behind

    def start(self) -> None:
        """Start the clock of a new answer."""
        self._clock = AnswerClock(time.monotonic())

    def show(self, event: ChatEvent) -> None:
        """Print one event; texts are printed as they come."""
        if self._clock.first is None and not isinstance(event, Finished):
            self._clock.first = time.monotonic()
        match event:
            case ReasoningText(text):
                if self._show_reasoning:
                    self._stream(text, ReasoningText, "dim")
            case AnswerText(text):
                self._stream(text, AnswerText, "")
            case Call(_, name, arguments):
                self._line(f"→ {name}({arguments})", "cyan")
            case Finished(reason, tokens):
                self._clock.tokens += tokens
                if reason == "length":
                    self._line("(cut at the token limit)", "yellow")

    def tool_result(self, output: str) -> None:
        """Print what a function gave back."""
        self._line(f"← {output}", "green")

    def end(self, note: str = "") -> None:
        """Print the figures of the answer."""
        summary = self._clock.summary(time.monotonic())
        self._line("; ".join(part for part in (note, summary) if part), "dim italic")
        self._console.print()

    def notice(self, text: str) -> None:
        """Print a line of the program itself."""
        self._line(text, "yellow")

    def _stream(self, text: str, kind: type[ChatEvent], style: str) -> None:
        if self._open is not kind:
            self._close()
            text = text.lstrip("\n")
        if text:
            self._open = kind
            self._console.print(Text(_clean(text), style), end="", soft_wrap=True)

    def _line(self, text: str, style: str) -> None:
        self._close()
        if text:
            self._console.print(Text(_clean(text), style), soft_wrap=True)

    def _close(self) -> None:
        if self._open is not None:
            self._console.print()
        self._open = None


class PlainView:
    """The bare answer on stdout and nothing else; notices on stderr."""

    def __init__(self, out: Console, err: Console) -> None:
        self._out = out
        self._err = err
        self._wrote = False

    def start(self) -> None:
        """Nothing to show before the answer."""

    def show(self, event: ChatEvent) -> None:
        """Write the pieces of the answer, and say on stderr if it was cut."""
        match event:
            case AnswerText(text):
                self._out.file.write(text)
                self._out.file.flush()
                self._wrote = True
            case Finished("length"):
                self.notice(
                    "The answer was cut at the token limit."
                    if self._wrote
                    else "The token limit came before the answer, while the model was reasoning."
                )

    def tool_result(self, output: str) -> None:
        """Tool traffic is not part of the answer."""

    def end(self, note: str = "") -> None:
        """End the last line."""
        if self._wrote:
            self._out.file.write("\n")
        if note:
            self.notice(note)
        self._wrote = False

    def notice(self, text: str) -> None:
        """Write to stderr."""
        self._err.print(text, markup=False, highlight=False, soft_wrap=True)


def _clean(text: str) -> str:
    return _CONTROL.sub("", text.replace("\r\n", "\n"))
