"""Real servers to speak to: programs of their own, on sockets and on pipes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvicorn

from ossia.tools.addresses import AddressRules
from ossia.tools.mcp.app import McpApp
from ossia.tools.mcp.spec import McpServerSpec
from ossia.tools.tool import CallContext, Tool

PROGRAM = Path(__file__).with_name("third_party.py")
PATIENCE = 60.0  # seconds; a busy machine is slow
RULES = AddressRules(["127.0.0.1"])
CONTEXT = CallContext("test")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ThirdParty:
    """A server program that can be killed and started again at the same place."""

    def __init__(self, transport: str, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._transport = transport
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def spec(self) -> McpServerSpec:
        path = "/sse" if self._transport == "sse" else "/mcp"
        return McpServerSpec(
            "third",
            "sse" if self._transport == "sse" else "streamable_http",
            url=f"http://127.0.0.1:{self.port}{path}",
        )

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable,
                PROGRAM,
                self._transport,
                str(self.port),
                self.folder,
                *self._arguments,
            ],
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                assert self._process.poll() is None, "the server program ended"
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThirdParty]:
    """One that is shared by all tests that do not harm it."""
    server = ThirdParty("streamable-http", tmp_path_factory.mktemp("third"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def legacy_party(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThirdParty]:
    """The same with the protocol up to 2025-11-25 only."""
    server = ThirdParty("streamable-http", tmp_path_factory.mktemp("legacy"), "--legacy")
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["modern", "legacy"])
def either_party(
    request: pytest.FixtureRequest, third_party: ThirdParty, legacy_party: ThirdParty
) -> ThirdParty:
    """Either of them."""
    return third_party if request.param == "modern" else legacy_party


@pytest.fixture
def make_third_party(tmp_path: Path) -> Iterator[Callable[..., ThirdParty]]:
    made: list[ThirdParty] = []

    def make(transport: str, *arguments: str) -> ThirdParty:
        made.append(ThirdParty(transport, tmp_path, *arguments))
        made[-1].start()
        return made[-1]

    yield make
    for server in made:
        server.kill()


def stdio_spec(folder: Path, *arguments: str) -> McpServerSpec:
    return McpServerSpec(
        "piped",
        "stdio",
        command=sys.executable,
        args=(str(PROGRAM), "stdio", "0", str(folder), *arguments),
    )


async def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def process_is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def by_name(tools: list[Tool]) -> dict[str, Tool]:
    return {tool.name: tool for tool in tools}


@contextlib.asynccontextmanager
async def on_a_socket(app: McpApp) -> AsyncIterator[str]:
    """Serve the app as our server does; yields the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, lifespan="off", log_level="error", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve([listener]))
    try:
        await wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        await app.stop()
        server.should_exit = True
        await serving
        listener.close()
