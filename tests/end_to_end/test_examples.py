"""The examples of the repository run as they are, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


PRINTED = {
    "chat.py": ["85"],
    "tools.py": ['get_weather {"city":"Paris"}'],
    "python_api.py": ["42"],
    "structured.py": [
        "Booking(name='Alice', people=4, date='2026-05-17', status='final')",
        'call: {"city":"Paris","unit":"celsius"}',
        "choice: 47 + 38 = 85.",
        "regex: 47 + 38 = 85.",
    ],
    "openai_agents.py": [
        "answer: Here is the result: city Paris, temperature 21.",
        "[tool_called]",
        "city| Madrid",
        "person: Alice, 31, Rome",
    ],
}


def test_every_example_is_here() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == PRINTED.keys()


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_should(demo_url: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OSSIA_URL": demo_url},
    )
    assert done.returncode == 0, done.stderr
    for expected in PRINTED[name]:
        assert expected in done.stdout
