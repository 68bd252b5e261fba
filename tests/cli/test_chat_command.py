"""`ossia chat` in a pipe and on a terminal, with random weights: what it says is nonsense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run, Server, Terminal

READ_MESSAGE = "from ossia.cli.chat.prompt import read_message; print(repr(read_message('> ')))"


def test_a_piped_question_whose_answer_is_cut_says_so_on_stderr(ossia: Run, server: Server) -> None:
    result = ossia(
        *("chat", "--url", server.url, "--max-tokens", "5", "--temperature", "0"),
        stdin="Hello there",
        OSSIA_API_KEY="secret",
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert "The token limit came before the answer" in result.stderr


def test_a_wrong_key_is_reported(ossia: Run, server: Server) -> None:
    result = ossia("chat", "--url", server.url, "--api-key", "wrong", stdin="Hello")
    assert result.returncode == 1
    assert "Give the key with --api-key." in result.stderr


def test_a_question_that_the_server_refuses_fails(ossia: Run, server: Server) -> None:
    result = ossia(
        *("chat", "--url", server.url, "--api-key", "secret"), stdin="a long story " * 5000
    )
    assert result.returncode == 1
    assert "context is 4096 tokens" in result.stderr
    assert result.stdout == ""


def test_a_conversation_on_a_terminal(terminal: Callable[..., Terminal], server: Server) -> None:
    chat = terminal(
        *("-m", "ossia.cli", "chat", "--url", server.url, "--max-tokens", "12"),
        OSSIA_API_KEY="secret",
    )
    chat.expect("/help lists commands")
    chat.expect("> ")
    chat.send("Hello\n")
    assert "12 tokens" in chat.expect("first after") + chat.expect("> ")
    chat.send("/effort high\n")
    chat.expect("Reasoning effort is high.")
    chat.expect("> ")
    chat.settle()
    chat.send("\x03")
    chat.expect("Ctrl-D leaves.")
    chat.expect("> ")
    chat.settle()
    chat.send("\x04")
    assert chat.wait() == 0


def test_ctrl_c_stops_the_answer_and_not_the_program(
    terminal: Callable[..., Terminal], tiny_model: Path
) -> None:
    chat = terminal(
        *("-m", "ossia.cli", "chat", tiny_model, "--load-format", "dummy", "--num-threads", "1"),
        *("--max-tokens", "3000"),
    )
    for _ in range(2):
        chat.expect("> ")
        chat.send("Count to a million\n")
        chat.expect("million")
        chat.expect_characters(100)
        chat.send("\x03")
        chat.expect("stopped")
    chat.expect("> ")
    chat.send("/exit\n")
    assert chat.wait() == 0


@pytest.mark.parametrize(
    "paste", ["one\n\n  two\nthree\n", "\x1b[200~one\n\n  two\nthree\x1b[201~\n"]
)
def test_a_paste_of_several_lines_is_one_message(
    terminal: Callable[..., Terminal], paste: str
) -> None:
    program = terminal("-c", READ_MESSAGE)
    program.expect("> ")
    program.send(paste)
    program.expect(r"'one\n\n  two\nthree'")
    assert program.wait() == 0


def test_a_line_that_is_typed_is_a_message(terminal: Callable[..., Terminal]) -> None:
    program = terminal("-c", f"{READ_MESSAGE}; {READ_MESSAGE}")
    program.expect("> ")
    program.send("one\n")
    program.expect("'one'")
    program.expect("> ")
    program.send("two\n")
    program.expect("'two'")
    assert program.wait() == 0
