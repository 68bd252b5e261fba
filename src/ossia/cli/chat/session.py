"""A conversation in the terminal: its history, the tool loop, and what can be typed."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Sequence

from ossia.cli.chat.events import AnswerText, Backend, Call, ReasoningText
from ossia.cli.chat.tools import definitions, run_tool
from ossia.cli.chat.view import View
from ossia.errors import OssiaError
from ossia.tools.tool import Tool
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    Reasoning,
    ReasoningEffort,
    ToolCall,
    ToolResult,
    Turn,
    UserMessage,
)

_MAX_ROUNDS = 8  # answers with calls in a row, before the model is no longer asked
HELP = """\
/effort low|medium|high   how much the model reasons
/reset                    forget the conversation
/help                     this list
/exit                     leave (or Ctrl-D)
Ctrl-C                    stop the current answer"""


class Session:
    """Asks `backend` and remembers; everything shown goes through `view`."""

    def __init__(
        self,
        backend: Backend,
        view: View,
        *,
        tools: Sequence[Tool] = (),
        effort: ReasoningEffort = ReasoningEffort.MEDIUM,
        system: str | None = None,
    ) -> None:
        self._backend = backend
        self._view = view
        self._tools = tuple(tools)
        self._effort = effort
        self._preamble: tuple[Item, ...] = (Instructions(system),) if system else ()
        self._items: list[Item] = []
        self._date = _today()

    def ask(self, question: str) -> bool:
        """Answer `question`, running the functions that the model calls; False if it failed.

        Ctrl-C ends the answer; the text until then is remembered, unfinished calls are not.
        """
        self._view.start()
        before = len(self._items)
        self._items.append(UserMessage(question))
        try:
            for _ in range(_MAX_ROUNDS):
                calls = self._one_answer()
                if not calls:
                    self._view.end()
                    return True
                for call in calls:
                    output = run_tool(self._tools, call.name, call.arguments)
                    self._view.tool_result(output)
                    self._items.append(ToolResult(call.call_id, call.name, output))
            self._view.end(f"stopped after {_MAX_ROUNDS} rounds of calls")
        except KeyboardInterrupt:
            self._keep_what_was_said(before)
            self._view.end("stopped")
        except OssiaError as error:
            del self._items[before:]
            self._view.end(error.message)
            return False
        return True

    def command(self, line: str) -> bool:
        """Run a line that starts with a slash; False means leave."""
        name, _, value = line.strip().partition(" ")
        match name:
            case "/exit" | "/quit":
                return False
            case "/help":
                self._view.notice(HELP)
            case "/reset":
                self._items.clear()
                self._date = _today()
                self._view.notice("The conversation is forgotten.")
            case "/effort":
                self._set_effort(value.strip())
            case _:
                self._view.notice(f"There is no command {name}; /help lists them.")
        return True

    def _set_effort(self, value: str) -> None:
        try:
            self._effort = ReasoningEffort(value)
        except ValueError:
            self._view.notice(f"/effort takes low, medium or high; it is {self._effort}.")
        else:
            self._view.notice(f"Reasoning effort is {value}.")

    def _one_answer(self) -> list[Call]:
        turn = Turn(
            items=(*self._preamble, *self._items),
            tools=definitions(self._tools),
            effort=self._effort,
            date=self._date,
        )
        reasoning, text = "", ""
        calls: list[Call] = []
        try:
            with contextlib.closing(self._backend.answer(turn)) as events:
                for event in events:
                    self._view.show(event)
                    match event:
                        case ReasoningText(piece):
                            reasoning += piece
                        case AnswerText(piece):
                            text += piece
                        case Call():
                            calls.append(event)
        finally:
            self._remember(reasoning, text, calls)
        return calls

    def _keep_what_was_said(self, before: int) -> None:
        said = [item for item in self._items[before:] if isinstance(item, AssistantMessage)]
        kept = [self._items[before], *said] if said else []
        self._items[before:] = kept

    def _remember(self, reasoning: str, text: str, calls: Sequence[Call]) -> None:
        if reasoning:
            self._items.append(Reasoning(reasoning))
        if text:
            self._items.append(AssistantMessage(text, "commentary" if calls else "final"))
        self._items.extend(ToolCall(call.call_id, call.name, call.arguments) for call in calls)


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()  # in UTC, as servers tell it
