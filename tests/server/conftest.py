"""A real server process, on a network whose weights are made by hand so that it speaks a script.

The network is a table of which token follows which: embeddings of the script's tokens are
orthogonal, attention and experts add nothing, and the output layer reads the table. Where a token
has several successors their logits are 60, 59.5, 59 and so on, so that a request chooses its way
with `logit_bias`, a penalty, or what the turn grammar leaves of them. At temperature 0 every answer
is known in advance, and the server, the engine and the network are the real ones. Without any of
these the model says the same again and again, until its tokens are used up.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch
from openai import OpenAI
from safetensors.torch import save_file

from ossia.checkpoint.layouts import stored_tensors
from ossia.checkpoint.parts import model_parts
from ossia.config import ModelConfig, model_config_to_hf
from ossia.harmony.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START, Tokenizer

START_SECONDS = 60
_REASONING = "Thinking about it"
_ANSWER = "The bird is \U0001f9a9 indeed"  # the bird is three tokens, none of them a character
_ARGUMENTS = '{"city":"Paris"}'
# What the model can call: of those that the grammar leaves it, the first. Each takes one text.
_CALLS = {
    "weather": "city",
    "echo": "text",
    "calculator": "expression",
    "note": "input",
    "trips.weather": "city",
}
_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
_CONFIG = ModelConfig(
    hidden_size=64,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=32,
    num_experts=2,
    experts_per_token=1,
    intermediate_size=32,
    max_context=2048,
    expert_format="bf16",
)


@dataclass(frozen=True)
class Script:
    """Which token follows which, and the biases that choose one of the ways."""

    successors: Mapping[int, list[int]]  # likeliest first
    reasoning: str
    answer: str
    arguments: str  # of the call
    tool: dict[str, object]  # the declaration of what is called
    final_only: dict[str, float]  # logit_bias: no reasoning, the answer at once
    call: dict[str, float]  # logit_bias: no reasoning, a call of weather at once
    end: int  # the token <|end|>

    @property
    def think_first(self) -> dict[str, object]:
        """Sampling under which the model reasons and then answers, or calls weather if it may."""
        return {"temperature": 0, "presence_penalty": 1.0}

    @property
    def call_twice(self) -> dict[str, object]:
        """Sampling under which the model reasons and then calls weather twice in one turn."""
        return {"temperature": 0, "frequency_penalty": 1.0, "logit_bias": {str(self.end): 2.0}}


def write_script(tokenizer: Tokenizer) -> Script:
    """The script: reasoning and answer, answer alone, or call."""
    one = {name: tokenizer.encode(name)[0] for name in ("assistant", "analysis", "final")}
    to, equals, functions, _ = tokenizer.encode(" to=functions.weather")
    commentary = tokenizer.encode("commentary json")
    reasoning, answer = tokenizer.encode(_REASONING), tokenizer.encode(_ANSWER)
    arguments = tokenizer.encode(_ARGUMENTS)
    successors: dict[int, list[int]] = {
        one["assistant"]: [CHANNEL, to],
        CHANNEL: [one["analysis"], one["final"], commentary[0]],
        MESSAGE: [reasoning[0], answer[0], arguments[0]],
        END: [START],
        START: [one["assistant"]],
    }

    def path(*tokens: int) -> None:
        for token, following in itertools.pairwise(tokens):
            known = successors.setdefault(token, [following])
            assert known == [following], "a token of the script has two successors"

    path(one["analysis"], MESSAGE)
    path(one["final"], MESSAGE)
    path(to, equals, functions)
    for name in _CALLS:
        function = tokenizer.encode(f" to=functions.{name}")[3:]
        successors.setdefault(functions, []).append(function[0])
        path(*function, CHANNEL)
    path(*commentary, MESSAGE)
    path(*reasoning, END)
    path(*answer, RETURN)
    brace, _, *value = arguments
    for argument in dict.fromkeys(_CALLS.values()):
        [name] = tokenizer.encode(argument)
        successors.setdefault(brace, []).append(name)
        path(name, *value, CALL)
    successors[value[-1]].append(END)  # another call may follow
    assert len(successors) < _CONFIG.hidden_size
    return Script(
        successors,
        reasoning=_REASONING,
        answer=_ANSWER,
        arguments=_ARGUMENTS,
        tool=_TOOL,
        final_only={str(one["final"]): 5.0, str(answer[0]): 5.0},
        call={str(to): 5.0, str(commentary[0]): 5.0, str(arguments[0]): 5.0},
        end=END,
    )


def write_model(directory: Path, script: Script) -> None:
    """A Hugging Face checkpoint of the network that speaks the script."""
    hidden = _CONFIG.hidden_size
    place = {token: index for index, token in enumerate(script.successors)}
    tensors = {}
    for part in model_parts(_CONFIG):
        for stored in stored_tensors("hf", _CONFIG, part):
            fill = 1.0 if part.kind == "norm" else 0.0
            tensors[stored.name] = torch.full(stored.shape, fill, dtype=torch.bfloat16)
    embedding, head = tensors["model.embed_tokens.weight"], tensors["lm_head.weight"]
    for token, index in place.items():
        embedding[token, index] = 1.0
        for rank, following in enumerate(script.successors[token]):
            # After the norm the one value of the embedding is the root of the hidden size.
            head[following, index] = (60 - rank / 2) / hidden**0.5
    save_file(tensors, directory / "model.safetensors")
    config = json.dumps(model_config_to_hf(_CONFIG))
    (directory / "config.json").write_text(config)


class ServerProcess:
    """`ossia serve` as a process of its own."""

    def __init__(self, model: Path | str, log: Path, *options: str) -> None:
        self.log = log
        self.headers = {}
        if "--api-key" in options:
            self.headers["authorization"] = f"Bearer {options[options.index('--api-key') + 1]}"
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "XDG_DATA_HOME": str(log.parent / "data"),  # a store of its own
        }
        command = [sys.executable, "-m", "ossia.cli", "serve", str(model), "--port", "0"]
        command += ["--served-model-name", "scripted", "--num-threads", "1", "--device", "cpu"]
        with log.open("w") as output:
            self.process = subprocess.Popen(
                [*command, *options], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        self.url = self._wait_until_ready()
        self._http = httpx.Client(base_url=self.url, headers=self.headers, timeout=30)

    def output(self) -> str:
        """What it printed so far."""
        return self.log.read_text()

    def gauges(self) -> dict[str, float]:
        """The values at /metrics by name and labels."""
        text = self._http.get("/metrics").text
        lines = (line.rpartition(" ") for line in text.splitlines() if line[:1] != "#")
        return {name: float(value) for name, _, value in lines}

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until nothing runs and every page is returned; fails after `seconds`."""
        wait_for(lambda: not any(self.gauges()[name] for name in IDLE), seconds)

    def stop(self) -> int:
        """End it kindly; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        """End it without a warning, as a power cut would; its engine has to notice by itself."""
        engine = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(timeout=20)
        _, alive = psutil.wait_procs(engine, timeout=20)
        for process in alive:
            process.kill()
        assert not alive, "processes outlived their server"

    def _wait_until_ready(self) -> str:
        found: list[str] = []

        def ready() -> bool:
            if self.process.poll() is not None:
                pytest.fail(f"The server ended while it started:\n{self.output()}")
            found.extend(re.findall(r"^Ready in .* at (http://\S+)$", self.output(), re.MULTILINE))
            return bool(found)

        wait_for(ready, START_SECONDS)
        return found[0]


IDLE = (
    "ossia_open_sequences",
    "ossia_sequences_running",
    "ossia_sequences_waiting",
    "ossia_sequences_compiling",
    'ossia_kv_pages_used{pool="full"}',
    'ossia_kv_pages_used{pool="window"}',
)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Ask until it is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} seconds"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="session")
def script(tokenizer: Tokenizer) -> Script:
    return write_script(tokenizer)


@pytest.fixture(scope="session")
def scripted_model(tmp_path_factory: pytest.TempPathFactory, script: Script) -> Path:
    directory = tmp_path_factory.mktemp("scripted")
    write_model(directory, script)
    return directory


StartServer = Callable[..., ServerProcess]


@pytest.fixture(scope="session")
def start_server(
    scripted_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartServer]:
    """Starts a server with further options; what still runs at the end is ended."""
    started: list[ServerProcess] = []

    def start(*options: str, model: Path | str = scripted_model) -> ServerProcess:
        log = tmp_path_factory.mktemp("server") / "log"
        started.append(ServerProcess(model, log, *options))
        return started[-1]

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
    for server in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(timeout=20)
        server.process.kill()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> ServerProcess:
    """The server that most tests share."""
    return start_server()


@pytest.fixture(scope="session")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def openai_client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1",
        api_key="none",
        max_retries=0,
        timeout=30,
        _strict_response_validation=True,
    ) as client:
        yield client
