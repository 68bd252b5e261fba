"""The examples of the repository run as they are, against a real server with the demo model."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from openai import OpenAI

EXAMPLES = Path(__file__).parents[2] / "examples"
PLUGIN = EXAMPLES / "plugin_tool"
TOOLS = ("demo", "--tool-server", "demo", "--enable-mcp-tool-server")  # as the README has it
SECONDS = 150  # for one example, on a busy machine

# What each program prints besides other things, in this order.
PRINTED: Mapping[str, tuple[str, ...]] = {
    "agents_sdk.py": (
        "answer: Here is the result: city Paris, temperature 21.",
        "answer: 17 * 23 = 391.",
        "[tool_called]",
        "Madrid",
        "recalled: Your favorite color is green.",
        "person: Alice, 31, Rome",
    ),
    "chat.py": (
        "reasoning: 47 + 38: 40 + 30 = 70",
        "answer:    47 + 38 = 85.",
        "> What is my favorite color?\n[",
        "green.] Your favorite color is green.",
        "You are welcome!",
    ),
    "mcp_client.py": (
        "tool:     calculator(expression)",
        "result:   calculator {'expression': '17 * 23'} -> 391",
        "-> 2538.046875",
        "error:    calculator {'expression': '1 / 0'} -> Division by zero",
        "-> hello",
    ),
    "python_api.py": ("What is 12 + 30? -> 12 + 30 = 42.", "What is 55 + 26? -> 55 + 26 = 81."),
    "server_tools.py": (
        "tools:     calculator\n",
        'call:      calculator {"expression":"17 * 23"} -> 391',
        "answer:    17 * 23 = 391.",
        "event:     response.mcp_call.completed",
        "answer:    1234 * 5678 = 7006652.",
        'asks for:  calculator {"expression":"23 * 17 + 4"}',
        "answer:    23 * 17 + 4 = 395.",
        "Chat Completions",
        "answer:    17 * 23 = 391.",
    ),
    "stored_turns.py": (
        "Your favorite color is green.",
        "Your favorite color is blue.",
        "items: user reasoning assistant user reasoning assistant",
        "completed: I can chat a little",
        "the two parts are the whole: True",
        "404 not_found",
        "Your locker code is 4711.",
    ),
    "structured_output.py": (
        "responses: Booking(name='Alice', people=4, date='2026-05-17', status='final')",
        "chat:      Booking(name='Alice', people=4, date='2026-05-17', status='final')",
        "choice:    47 + 38 = 85.",
        "regex:     47 + 38 = 85.",
        "grammar:   47 + 38 = 85.",
        "choice:    47 + 38 = 85.",
    ),
    "tools.py": (
        "call:   get_weather {'city': 'Paris'}",
        "answer: Here is the result: city Paris, temperature 21.",
        "call:   send_message {'to': 'Anna', 'text': 'see you on Monday'}",
        "> Hello\nanswer: Hello!",
        "call:   get_weather {'city': 'Rome', 'unit': 'fahrenheit'}",
    ),
    "tour.py": (
        "The server\n",
        "Chat Completions\n",
        "Functions of yours\n",
        "Answers in a form\n",
        "The Responses API\n",
        "Tools that the server runs\n",
        "Its tools for MCP clients\n",
        "Mistakes are named\n",
        "\nEverything worked.\n",
    ),
}


@dataclass(frozen=True, slots=True)
class Program:
    """An example that was started, and the file that has all it prints."""

    process: subprocess.Popen[bytes]
    log: Path


@pytest.fixture(scope="module")
def programs(
    serve: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Program]]:
    """All of them, begun together: the server answers several at once sooner than in turn."""
    folder = tmp_path_factory.mktemp("examples")
    address = serve(*TOOLS)
    begun: dict[str, Program] = {}
    try:
        for name in PRINTED:
            begun[name] = start(name, address, folder / f"{name}.log")
        yield begun
    finally:
        for program in begun.values():
            program.process.kill()
            program.process.wait()


def start(name: str, address: str, log: Path) -> Program:
    """Runs an example as a newcomer does, against the server at this address."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(EXAMPLES / name)],
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "OSSIA_URL": address, "PYTHONIOENCODING": "utf-8"},
        )
    return Program(process, log)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_should(programs: Mapping[str, Program], name: str) -> None:
    code = programs[name].process.wait(timeout=SECONDS)
    printed = programs[name].log.read_text("utf-8")
    assert code == 0, printed
    rest = printed
    for expected in PRINTED[name]:
        assert expected in rest, printed
        rest = rest.partition(expected)[2]


def test_the_tour_says_that_there_is_no_server(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        tour = start("tour.py", address, tmp_path / "log")
        assert tour.process.wait(timeout=SECONDS) == 1
    last = tour.log.read_text("utf-8").splitlines()[-1]
    assert last == f"{address} does not answer; start the server, or set OSSIA_URL to its address."


def test_the_tool_of_the_plugin_runs_in_the_server(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PLUGIN / "src"), prepend=os.pathsep)
    address = serve("demo", "--tool", "ossia_dice:roll", "--kv-cache-memory", "64MiB")
    with OpenAI(base_url=f"{address}/v1", api_key="none", timeout=SECONDS) as client:
        response = client.responses.create(
            model="demo",
            input="Roll 3 dice",
            tools=[{"type": "mcp", "server_label": "ossia"}],
            tool_choice={"type": "mcp", "server_label": "ossia", "name": "roll"},
            max_tool_calls=1,
            temperature=0,
        )
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [call.name for call in calls] == ["roll"]
    rolled = json.loads(calls[0].output or "")
    assert rolled["sum"] == sum(rolled["dice"])


def test_every_example_is_tested_and_in_the_table() -> None:
    here = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("_", "."))}
    assert here == {*PRINTED, PLUGIN.name, "README.md"}
    table = (EXAMPLES / "README.md").read_text("utf-8")
    assert [name for name in here - {"README.md"} if f"| [{name}](" not in table] == []
