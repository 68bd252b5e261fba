"""The examples of the repository run as they are, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("chat.py", "85"), ("tools.py", 'get_weather {"city":"Paris"}'), ("python_api.py", "42")],
)
def test_an_example_prints_what_it_should(demo_url: str, name: str, expected: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OSSIA_URL": demo_url},
    )
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
