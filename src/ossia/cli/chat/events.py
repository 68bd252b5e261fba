"""What an answer is made of while it streams, whoever computes it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Protocol

from ossia.turn import Turn


@dataclass(frozen=True, slots=True)
class ReasoningText:
    """A piece of the chain of thought."""

    text: str


@dataclass(frozen=True, slots=True)
class AnswerText:
    """A piece of what the user is told."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A whole call of a function; `arguments` is the JSON text as written."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of the answer, always the last event."""

    reason: str  # as in the API: stop, length, tool_calls, ...
    completion_tokens: int


ChatEvent = ReasoningText | AnswerText | Call | Finished


class Backend(Protocol):
    """Computes answers: a server elsewhere, or an engine in this process."""

    name: str  # of the model, for the greeting

    def answer(self, turn: Turn) -> Generator[ChatEvent]:
        """Stream the answer to `turn`. Closing the generator, or Ctrl-C, stops the computation.

        Raises:
            OssiaError: a sentence for the user.
        """
        ...

    def close(self) -> None:
        """Give everything back."""
        ...
