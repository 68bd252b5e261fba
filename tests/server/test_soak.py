from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_random_aborts_of_many_streams_leave_nothing_behind(server: Any) -> None:
    command = [sys.executable, str(SOAK), "--url", server.url, "--streams", "32"]
    done = subprocess.run([*command, "--seconds", "5"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "broken off" in done.stdout
    assert "finished" in done.stdout
    assert "Traceback" not in server.output()
