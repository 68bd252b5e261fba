"""A small server with keys and a short queue: refusals, a dying engine, and the end."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import AuthenticationError, OpenAI

from ossia.config import ModelConfig, model_config_to_hf

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"messages": HELLO, "max_tokens": 1900, "ignore_eos": True}


@pytest.fixture(scope="module")
def small(start_server: Any) -> Any:
    """One sequence at a time, two may wait."""
    return start_server(
        *("--api-key", "first key", "--api-key", "second"),
        *("--max-num-seqs", "1", "--max-waiting", "2"),
    )


@pytest.fixture
def client(small: Any) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=small.url, headers=small.headers, timeout=30) as client:
        yield client


@pytest.mark.parametrize("path", ["/health", "/version", "/docs", "/openapi.json"])
def test_no_key_is_needed_to_look_around(small: Any, path: str) -> None:
    assert httpx.get(small.url + path).status_code == 200


@pytest.mark.parametrize("value", [None, "Bearer", "Bearer wrong", "Basic second", "second"])
def test_a_missing_or_wrong_key_is_401(small: Any, value: str | None) -> None:
    headers = {"authorization": value} if value else {}
    for answer in (
        httpx.get(small.url + "/v1/models", headers=headers),
        httpx.get(small.url + "/metrics", headers=headers),
        httpx.post(small.url + CHAT, json={"messages": HELLO}, headers=headers),
    ):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] in ("invalid_api_key", "missing_api_key")


def test_each_key_opens_the_server(small: Any) -> None:
    for key in ("first key", "second"):
        assert OpenAI(base_url=f"{small.url}/v1", api_key=key).models.list().data
    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{small.url}/v1", api_key="third").models.list()


def test_the_printed_command_is_a_request_that_works(small: Any) -> None:
    (line,) = [line for line in small.output().splitlines() if line.startswith("curl ")]
    _, url, _, content_type, _, key, _, body = shlex.split(line)
    assert content_type == "Content-Type: application/json"
    assert key == "Authorization: Bearer YOUR_KEY"
    fields = {**json.loads(body), "max_tokens": 1}
    assert httpx.post(url, json=fields, headers=small.headers).status_code == 200


def test_a_connection_may_be_idle_for_longer_than_clients_keep_it(small: Any) -> None:
    connections = []
    with httpx.Client(base_url=small.url, limits=httpx.Limits(keepalive_expiry=60)) as patient:
        for pause in (5.5, 0.0):  # httpx and the OpenAI SDK keep a connection for 5 seconds
            with patient.stream("GET", "/health") as answer:
                stream = answer.extensions["network_stream"]
                connections.append(stream.get_extra_info("client_addr"))
                answer.read()
            time.sleep(pause)
    assert connections[0] == connections[1]


def test_a_full_queue_is_429(small: Any, client: httpx.Client) -> None:
    answer = client.post(CHAT, json={**LONG, "n": 4})
    assert answer.status_code == 429
    assert answer.json()["error"]["type"] == "rate_limit_error"
    small.wait_until_idle(1.0)


def sequences(server: Any) -> dict[str, float]:
    gauges = server.gauges()
    return {
        "open": gauges["ossia_open_sequences"],
        "running": gauges["ossia_sequences_running"],
        "waiting": gauges["ossia_sequences_waiting"],
    }


def test_a_queued_client_that_leaves_is_forgotten(small: Any, client: httpx.Client) -> None:
    with client.stream("POST", CHAT, json={**LONG, "stream": True}) as running:
        lines = running.iter_lines()  # dropping this would close the stream
        next(lines)
        with pytest.raises(httpx.ReadTimeout):
            client.post(CHAT, json=LONG, timeout=0.3)
        deadline = time.monotonic() + 1.0
        while sequences(small) != {"open": 1, "running": 1, "waiting": 0}:
            assert time.monotonic() < deadline, sequences(small)
    small.wait_until_idle(1.0)


def test_a_port_in_use_is_refused_at_once(small: Any) -> None:
    port = small.url.rpartition(":")[2]
    command = [sys.executable, "-m", "ossia.cli", "serve", "demo", "--port", port]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    command = [sys.executable, "-m", "ossia.cli", "serve", str(tmp_path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "LlamaForCausalLM" in line


def test_a_model_without_the_tokens_of_harmony_is_refused(tmp_path: Path) -> None:
    tiny = ModelConfig(
        vocab_size=512, hidden_size=64, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=32,
        num_experts=2, experts_per_token=1, intermediate_size=32, pad_token_id=0,
    )  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(model_config_to_hf(tiny)))
    command = [sys.executable, "-m", "ossia.cli", "serve", str(tmp_path)]
    command += ["--load-format", "dummy", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "512" in line
    assert "201088" in line


def test_the_api_process_has_no_torch(small: Any) -> None:
    libraries = {part.path for part in psutil.Process(small.process.pid).memory_maps()}
    assert not any("libtorch" in path for path in libraries)


def test_a_killed_engine_is_reported_and_comes_back(small: Any, client: httpx.Client) -> None:
    (engine,) = psutil.Process(small.process.pid).children()
    with client.stream("POST", CHAT, json={**LONG, "stream": True}) as answer:
        lines = answer.iter_lines()
        next(lines)
        engine.kill()
        events = [line for line in lines if line]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert client.get("/health").status_code == 503
    refused = client.post(CHAT, json=LONG)
    assert refused.status_code == 503
    assert refused.json()["error"]["type"] == "server_error"
    deadline = time.monotonic() + 60
    while client.get("/health").status_code != 200:
        assert time.monotonic() < deadline, small.output()
        time.sleep(0.1)
    assert client.post(CHAT, json={"messages": HELLO, "max_tokens": 1}).status_code == 200
    assert small.gauges()["ossia_engine_restarts_total"] == 1
    small.wait_until_idle(1.0)


def test_a_running_request_ends_before_the_server_does(small: Any, client: httpx.Client) -> None:
    body = {**LONG, "max_tokens": 300, "stream": True}
    with client.stream("POST", CHAT, json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        small.process.send_signal(signal.SIGTERM)
        events = [line for line in lines if line]
    assert events[-1] == "data: [DONE]"
    assert small.process.wait(timeout=10) == 0
    assert small.output().rstrip().endswith("Stopped.")
    with pytest.raises(httpx.ConnectError):
        httpx.get(small.url + "/health")


def test_a_second_signal_ends_the_server_at_once(start_server: Any) -> None:
    server = start_server()
    last: list[str] = []

    def read() -> None:
        body = {**LONG, "stream": True, "n": 4}
        with httpx.stream("POST", server.url + CHAT, json=body, timeout=30) as answer:
            last.extend(line for line in answer.iter_lines() if line)

    reader = threading.Thread(target=read)
    reader.start()
    deadline = time.monotonic() + 10
    while server.gauges()["ossia_sequences_running"] == 0:
        assert time.monotonic() < deadline
    children = psutil.Process(server.process.pid).children(recursive=True)
    os.kill(server.process.pid, signal.SIGINT)
    time.sleep(0.2)
    assert server.process.poll() is None
    started = time.monotonic()
    os.kill(server.process.pid, signal.SIGINT)
    assert server.process.wait(timeout=10) == 0
    assert time.monotonic() - started < 5
    reader.join(timeout=10)
    assert json.loads(last[-1].removeprefix("data: "))["error"]["code"] == "engine_unavailable"
    assert not any(child.is_running() for child in children)
