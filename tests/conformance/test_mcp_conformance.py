"""The official MCP conformance suite against our server and our client.

It runs where OSSIA_MCP_CONFORMANCE is the command that starts its runner, such as
"node node_modules/.bin/conformance" with Node 22; docs/conformance-mcp.md tells how to get it.
"""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RUNNER = os.environ.get("OSSIA_MCP_CONFORMANCE", "")
PATIENCE = 60.0  # seconds
PASSED = "Baseline check passed"

pytestmark = pytest.mark.skipif(
    not RUNNER, reason="OSSIA_MCP_CONFORMANCE does not say how to start the conformance runner"
)


@pytest.fixture
def fixture_url() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, HERE / "mcp_fixture.py", str(port)])
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield f"http://localhost:{port}/mcp"
    finally:
        server.terminate()
        server.wait()


def run_suite(folder: Path, *arguments: str) -> str:
    """What the runner says."""
    return subprocess.run(
        [
            *shlex.split(RUNNER),
            *arguments,
            "--suite",
            "all",
            "--expected-failures",
            str(HERE / "mcp_baseline.yml"),
        ],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    ).stdout


def test_the_server_passes_all_that_a_server_of_tools_can(fixture_url: str, tmp_path: Path) -> None:
    said = run_suite(tmp_path, "server", "--url", fixture_url)
    assert PASSED in said, said[-4000:]


def test_the_client_passes_all_that_a_client_without_a_browser_can(tmp_path: Path) -> None:
    command = f"{sys.executable} {HERE / 'mcp_client.py'}"
    # The suite runs all scenarios at once, and wants one of them on time to 0.2 seconds.
    for _ in range(3):
        said = run_suite(tmp_path, "client", "--command", command)
        if PASSED in said:
            return
    pytest.fail(said[-4000:])
