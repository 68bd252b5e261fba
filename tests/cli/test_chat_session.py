"""The conversation loop, with a backend that plays a written script."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ossia.cli.chat.events import AnswerText, Call, ChatEvent, Finished, ReasoningText
from ossia.cli.chat.session import Session
from ossia.cli.chat.tools import local_tools
from ossia.errors import OssiaError
from ossia.turn import (
    AssistantMessage,
    Instructions,
    Reasoning,
    ReasoningEffort,
    ToolCall,
    ToolResult,
    Turn,
    UserMessage,
)

Step = ChatEvent | type[KeyboardInterrupt] | OssiaError


class Script:
    """Plays one list of events for each answer; remembers what it was asked."""

    name = "script"

    def __init__(self, *answers: Sequence[Step]) -> None:
        self.answers = list(answers)
        self.turns: list[Turn] = []

    def answer(self, turn: Turn) -> Generator[ChatEvent]:
        self.turns.append(turn)
        for step in self.answers.pop(0):
            if isinstance(step, OssiaError) or step is KeyboardInterrupt:
                raise step
            yield step  # type: ignore[misc]

    def close(self) -> None: ...


class Notes:
    """A view that writes down what it was told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def start(self) -> None:
        self.seen.append("start")

    def show(self, event: ChatEvent) -> None:
        self.seen.append(type(event).__name__)

    def tool_result(self, output: str) -> None:
        self.seen.append(f"result {output}")

    def end(self, note: str = "") -> None:
        self.seen.append(f"end {note}".strip())

    def notice(self, text: str) -> None:
        self.seen.append(f"notice {text}")


DONE = Finished("stop", 3)


def test_earlier_answers_are_part_of_the_next_question() -> None:
    script = Script([ReasoningText("hm"), AnswerText("He"), AnswerText("llo"), DONE], [DONE])
    session = Session(script, Notes(), system="Be brief.")
    assert session.ask("Hi")
    session.ask("Again")
    assert script.turns[1].items == (
        Instructions("Be brief."),
        UserMessage("Hi"),
        Reasoning("hm"),
        AssistantMessage("Hello"),
        UserMessage("Again"),
    )
    assert script.turns[0].date == script.turns[1].date is not None


def test_calls_are_run_and_their_results_go_back_to_the_model() -> None:
    call = Call("c1", "calculator", '{"expression": "6*7"}')
    script = Script(
        [ReasoningText("use it"), AnswerText("One moment."), call, Finished("tool_calls", 9)],
        [AnswerText("It is 42."), DONE],
    )
    notes = Notes()
    assert Session(script, notes, tools=local_tools("demo")).ask("6*7?")
    assert script.turns[1].items == (
        UserMessage("6*7?"),
        Reasoning("use it"),
        AssistantMessage("One moment.", "commentary"),
        ToolCall("c1", "calculator", '{"expression": "6*7"}'),
        ToolResult("c1", "calculator", "42"),
    )
    assert [tool.name for tool in script.turns[0].tools] == ["calculator", "echo", "time"]
    assert notes.seen == [
        *("start", "ReasoningText", "AnswerText", "Call", "Finished", "result 42"),
        *("AnswerText", "Finished", "end"),
    ]


def test_a_model_that_only_calls_is_stopped() -> None:
    call = Call("c", "time", "{}")
    script = Script(*[[call, DONE]] * 20)
    notes = Notes()
    Session(script, notes, tools=local_tools("demo")).ask("What time is it?")
    assert len(script.turns) == 8
    assert notes.seen[-1] == "end stopped after 8 rounds of calls"


def test_an_interrupted_answer_is_remembered_as_far_as_it_was_said() -> None:
    script = Script([AnswerText("One, two"), KeyboardInterrupt], [DONE])
    notes = Notes()
    session = Session(script, notes)
    assert session.ask("Count")
    assert notes.seen[-1] == "end stopped"
    session.ask("Go on")
    assert script.turns[1].items == (
        UserMessage("Count"),
        AssistantMessage("One, two"),
        UserMessage("Go on"),
    )


def test_an_answer_interrupted_before_it_said_anything_is_forgotten() -> None:
    script = Script([ReasoningText("hm"), KeyboardInterrupt], [DONE])
    session = Session(script, Notes())
    session.ask("Count")
    session.ask("Hello")
    assert script.turns[1].items == (UserMessage("Hello"),)


def test_a_failed_question_is_forgotten_and_its_error_shown() -> None:
    script = Script([AnswerText("x"), OssiaError("It broke.")], [DONE])
    notes = Notes()
    session = Session(script, notes)
    assert not session.ask("one")
    assert notes.seen[-1] == "end It broke."
    assert session.ask("two")
    assert script.turns[1].items == (UserMessage("two"),)


def command_notice(line: str) -> tuple[bool, list[str]]:
    notes = Notes()
    goes_on = Session(Script(), notes).command(line)
    return goes_on, notes.seen


def test_commands() -> None:
    assert command_notice("/exit") == (False, [])
    assert command_notice("/nope") == (
        True,
        ["notice There is no command /nope; /help lists them."],
    )
    assert "/effort" in command_notice("/help")[1][0]
    assert command_notice("/effort huge")[1] == [
        "notice /effort takes low, medium or high; it is medium."
    ]


def test_effort_and_reset_change_the_next_turn() -> None:
    script = Script([AnswerText("a"), DONE], [DONE])
    session = Session(script, Notes(), system="S")
    session.ask("one")
    session.command("/effort high")
    session.command("/reset")
    session.ask("two")
    assert script.turns[1].effort is ReasoningEffort.HIGH
    assert script.turns[1].items == (Instructions("S"), UserMessage("two"))
