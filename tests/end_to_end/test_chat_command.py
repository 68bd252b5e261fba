"""`ossia chat` in a pipe, with the demo model: in its own process and against a server."""

from __future__ import annotations

import subprocess
import sys


def chat(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ossia.cli", "chat", *arguments, "--temperature", "0"],
        input="What is 47 + 38?",
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_piped_question_gets_the_bare_answer_here_and_from_a_server(demo_url: str) -> None:
    there, here = chat("--url", demo_url), chat("--device", "cpu")
    assert there.returncode == here.returncode == 0, there.stderr + here.stderr
    assert there.stdout == here.stdout == "47 + 38 = 85.\n"
    assert there.stderr == ""
