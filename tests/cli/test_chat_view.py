from __future__ import annotations

import io

import pytest
from rich.console import Console

from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText
from ossia.cli.chat.view import AnswerClock, PlainView, TerminalView

ANSWER: tuple[ChatEvent, ...] = (
    ReasoningText("Let me "),
    ReasoningText("think."),
    AnswerText("It is "),
    AnswerText("[bold]4[/bold].\n"),
    AnswerText("  Done"),
    Finished("stop", 9),
)


def terminal(*events: ChatEvent, show_reasoning: bool = True, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=colour, width=20, highlight=False)
    view = TerminalView(console, show_reasoning=show_reasoning)
    view.start()
    for event in events:
        view.show(event)
    view.end()
    return out.getvalue()


def test_text_is_shown_as_it_was_written_however_it_was_split() -> None:
    lines = terminal(*ANSWER).split("\n")
    assert lines[0] == "Let me think."
    assert lines[1:3] == ["It is [bold]4[/bold].", "  Done"]


def test_reasoning_is_dim_and_the_answer_is_not() -> None:
    shown = terminal(*ANSWER, colour=True)
    assert "\x1b[2mthink.\x1b[0m" in shown
    assert "It is [bold]4[/bold]." in shown


def test_reasoning_can_be_hidden() -> None:
    shown = terminal(*ANSWER, show_reasoning=False)
    assert "think" not in shown
    assert shown.startswith("It is [bold]4")


def test_calls_stand_on_their_own_line() -> None:
    shown = terminal(AnswerText("Wait"), Call("c", "time", "{}"), Finished("tool_calls", 5))
    assert shown.startswith("Wait\n→ time({})\n")


def test_a_cut_answer_says_so() -> None:
    assert "(cut at the token limit)" in terminal(AnswerText("x"), Finished("length", 5))


def test_figures_follow_the_answer() -> None:
    assert "9 tokens" in terminal(*ANSWER)


def test_a_model_cannot_control_the_terminal() -> None:
    shown = terminal(
        AnswerText("a\x1b]0;title\x07b\x9bc\r\nd\te"), Call("c", "f\x1b[2J", "\x08"), colour=False
    )
    assert not set(shown) & {"\x1b", "\x07", "\x9b", "\r", "\x08"}
    assert "a]0;titlebc\nd" in shown


def test_a_long_line_is_left_to_the_terminal_to_wrap() -> None:
    assert "x" * 50 in terminal(AnswerText("x" * 50))


@pytest.mark.parametrize(
    ("clock", "text"),
    [
        (AnswerClock(10.0, 10.5, 11), "11 tokens in 2.00 s, 5.5 tokens/s, first after 0.50 s"),
        (AnswerClock(10.0, 10.5, 1), "1 token in 2.00 s, 0.5 tokens/s, first after 0.50 s"),
        (AnswerClock(10.0, None, 0), ""),
    ],
)
def test_the_clock_tells_what_the_answer_took(clock: AnswerClock, text: str) -> None:
    assert clock.summary(now=12.0) == text


def test_a_pipe_gets_the_bare_answer() -> None:
    out, err = io.StringIO(), io.StringIO()
    view = PlainView(Console(file=out), Console(file=err))
    view.start()
    for event in ANSWER:
        view.show(event)
    view.tool_result("hidden")
    view.end("It broke.")
    assert out.getvalue() == "It is [bold]4[/bold].\n  Done\n"
    assert err.getvalue() == "It broke.\n"
