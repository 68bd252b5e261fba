"""The real command in a process of its own, and a model small enough to run it with."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ossia.cli import main
from ossia.config import ModelConfig, model_config_to_hf

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of every process that the tests start: one thread, no settings of whoever runs them."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OSSIA_")}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "140",
        "HF_HUB_OFFLINE": "1",
        "OSSIA_CACHE_DIR": str(tmp_path_factory.mktemp("cache")),
    }


@pytest.fixture(scope="session")
def ossia(environment: dict[str, str]) -> Run:
    """Runs `ossia ARGUMENTS...` to its end."""

    def run(
        *arguments: str | Path, stdin: str = "", timeout: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ossia.cli", *map(str, arguments)],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**environment, **variables},
        )

    return run


@pytest.fixture
def ossia_here(
    capsys: pytest.CaptureFixture[str], environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """As `ossia`, in this process: saves the seconds that importing torch takes."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        for name in ("COLUMNS", "OSSIA_CACHE_DIR"):
            monkeypatch.setenv(name, environment[name])
        threads = torch.get_num_threads()
        try:
            code = main([str(argument) for argument in arguments])
        finally:
            torch.set_num_threads(threads)  # --num-threads was meant for the command
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the config.json of a tiny gpt-oss, for `--load-format dummy`."""
    folder = tmp_path_factory.mktemp("tiny")
    config = ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        num_experts=4,
        experts_per_token=2,
        intermediate_size=32,
        max_context=4096,
    )
    (folder / "config.json").write_text(json.dumps(model_config_to_hf(config)))
    return folder


@dataclass
class Server:
    """A running `ossia serve`."""

    url: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="session")
def server(environment: dict[str, str], tiny_model: Path) -> Iterator[Server]:
    """The tiny model with random weights on a free port, behind the key "secret"."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "ossia.cli", "serve", str(tiny_model)),
            *("--load-format", "dummy", "--port", "0", "--num-threads", "1"),
            *("--api-key", "secret", "--log-level", "warning"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        found = re.search(r"at (http://\S+)", line)
        if found:
            break
    else:
        pytest.fail(f"the server did not start:\n{said}")
    threading.Thread(target=process.stdout.read, daemon=True).start()
    yield Server(found[1], process)
    process.terminate()
    assert process.wait(timeout=20) == 0


class Terminal:
    """A program on a terminal of its own: type with `send`, wait for output with `expect`."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        self.output = ""
        self._pid, self._screen = pty.fork()
        if self._pid == 0:
            # Whoever runs the tests in the background has it ignored.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            termios.tcsetwinsize(0, (40, 140))
            os.execve(sys.executable, [sys.executable, *arguments], environment)

    def send(self, text: str) -> None:
        """Type `text`."""
        os.write(self._screen, text.encode())

    def expect(self, text: str, timeout: float = 30) -> str:
        """Everything from the last `expect` up to `text`."""
        deadline = time.monotonic() + timeout
        while text not in self.output:
            if not self._read(deadline - time.monotonic()):
                raise AssertionError(f"{text!r} did not come, only {self.output!r}")
        before, _, self.output = self.output.partition(text)
        return before

    def expect_characters(self, count: int, timeout: float = 30) -> None:
        """Wait for that much output since the last `expect`, whatever it is."""
        deadline = time.monotonic() + timeout
        while len(self.output) < count:
            assert self._read(deadline - time.monotonic()), f"only {self.output!r} came"

    def settle(self, seconds: float = 0.3) -> None:
        """Wait until nothing was written for so long.

        Between its prompt and its first read, readline does not notice Ctrl-C.
        """
        while select.select([self._screen], [], [], seconds)[0] and self._read(seconds):
            pass

    def wait(self, timeout: float = 20) -> int:
        """The exit code; the rest of the output is in `output`."""
        deadline = time.monotonic() + timeout
        while self._read(deadline - time.monotonic()):
            pass
        assert time.monotonic() < deadline, f"still running after {self.output!r}"
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def close(self) -> None:
        """End the program if it still runs."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._screen)

    def _read(self, timeout: float) -> bool:
        if timeout <= 0 or not select.select([self._screen], [], [], timeout)[0]:
            return False
        try:
            piece = os.read(self._screen, 65536)
        except OSError:  # the program has ended
            return False
        self.output += piece.decode(errors="replace").replace("\r\n", "\n")
        return bool(piece)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Callable[..., Terminal]]:
    """Starts `python ARGUMENTS...` on a terminal."""
    started: list[Terminal] = []

    def start(*arguments: str | Path, **variables: str) -> Terminal:
        own = {**environment, "TERM": "xterm-256color", **variables}
        started.append(Terminal(list(map(str, arguments)), own))
        return started[-1]

    yield start
    for program in started:
        program.close()
