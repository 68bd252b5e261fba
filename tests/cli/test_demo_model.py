"""The commands with the bundled demo model, whose answers mean something."""

from __future__ import annotations

import json
from collections.abc import Callable

from .conftest import Run, Terminal


def test_the_demo_answers_with_its_reasoning(ossia: Run) -> None:
    result = ossia("generate", "--prompt", "Who are you?", "--temperature", "0", "--json")
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert record["finish_reason"] == "stop"
    assert "ossia" in record["text"].lower()
    assert record["reasoning"]
    assert 0 < record["usage"]["reasoning_tokens"] < record["usage"]["completion_tokens"]


def test_the_demo_calls_the_calculator_and_reads_its_result(
    terminal: Callable[..., Terminal],
) -> None:
    chat = terminal("-m", "ossia.cli", "chat", "--tools", "demo", "--temperature", "0")
    chat.expect("> ")
    chat.send("Use the calculator: 347 * 28\n")
    chat.expect("\x1b[2m")  # reasoning
    chat.expect("→ calculator({")
    chat.expect("← 9716")
    chat.expect("9716.")
    chat.expect("tokens/s")
    chat.send("/exit\n")
    assert chat.wait() == 0
