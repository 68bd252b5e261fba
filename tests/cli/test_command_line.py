"""The command as a user meets it before any model is loaded."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from .conftest import Run

COMMANDS = ("serve", "chat", "generate", "bench", "convert", "doctor", "mcp")


def test_help_lists_the_commands_without_importing_torch(ossia: Run) -> None:
    result = ossia("--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0
    assert all(f"\n    {command} " in result.stdout for command in COMMANDS)
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "ossia.cli" in imported
    assert imported.isdisjoint({"torch", "numpy", "httpx", "rich", "fastapi", "openai_harmony"})


def test_help_is_quick(ossia: Run) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        ossia("--help")
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 0.5  # 0.12 s on an idle core


def test_version(ossia: Run) -> None:
    import ossia as package

    assert ossia("--version").stdout == f"ossia {package.__version__}\n"


@pytest.mark.parametrize("command", [*COMMANDS, "bench latency", "bench throughput", "bench serve"])
def test_every_command_explains_itself(ossia: Run, command: str) -> None:
    result = ossia(*command.split(), "--help")
    assert result.returncode == 0
    assert f"usage: ossia {command} " in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("serve --port x", "--port must be a whole number between 0 and 65535, not 'x'."),
        ("serve --port 70000", "--port must be a whole number between 0 and 65535, not '70000'."),
        ("serve --device gpu", "--device must be auto, cpu or cuda, not 'gpu'."),
        ("serve --dtype fp8", "--dtype must be auto, bfloat16 or float32, not 'fp8'."),
        ("serve --quantization int4", "--quantization must be mxfp4, not 'int4'."),
        ("serve --kv-cache-memory 2XB", "--kv-cache-memory must be a size"),
        ("serve --max-model-len 0", "--max-model-len must be a number of tokens"),
        ("serve --gpu-memory-utilization 1.5", "--gpu-memory-utilization must be a number above 0"),
        ("serve --page-size -1", "--page-size must be a whole number of 1 or more"),
        ("serve --api-key=", "--api-key must not be empty."),
        ("serve --port", "--port needs a value."),
        ("serve --max-model-lne 3", "did you mean --max-model-len?"),
        ("serve --max-model 3", "there is no option --max-model;"),
        ("serve a b", "'b' is one argument too many."),
        ("serve a --model b", "Two models are named, 'a' and 'b'; leave one out."),
        ("sevre", "'sevre' is unknown"),
        ("bench", "BENCHMARK is missing."),
        ("bench serve --concurrency 1,0", "--concurrency must be whole numbers"),
        ("chat --url localhost", "--url must be an address such as http://127.0.0.1:8000"),
        ("generate", "There is nothing to answer: give --prompt or --prompts-file."),
        ("convert a", "TARGET is missing."),
        (
            "convert a b --quantize mxfp4 --expert-dtype bfloat16",
            "--expert-dtype cannot be combined with --quantize.",
        ),
    ],
)
def test_a_bad_command_line_is_refused_with_one_sentence(
    ossia: Run, arguments: str, sentence: str
) -> None:
    result = ossia(*arguments.split())
    assert result.returncode == 2
    assert result.stdout == ""
    assert sentence in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_a_command_the_help_is_shown(ossia: Run) -> None:
    result = ossia()
    assert result.returncode == 2
    assert result.stderr.startswith("usage: ossia")


def test_a_failed_start_is_one_sentence_and_a_traceback_only_when_asked(
    ossia: Run, tmp_path: Path
) -> None:
    missing = tmp_path / "missing.txt"
    command = ("generate", "--prompts-file", missing)
    plain = ossia(*command)
    assert plain.returncode == 1
    assert plain.stderr == (
        f"ossia generate: --prompts-file {missing} cannot be read: No such file or directory.\n"
    )
    assert "Traceback" in ossia(*command, OSSIA_DEBUG="1").stderr
    assert "Traceback" in ossia("--debug", *command).stderr
    assert "Traceback" in ossia(*command, "--debug").stderr


def test_clients_say_that_no_server_answers(ossia: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        for command in (("chat",), ("bench", "serve")):
            result = ossia(*command, "--url", url)
            assert result.returncode == 1
            assert f"No server answers at {url}" in result.stderr
