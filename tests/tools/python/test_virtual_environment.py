"""The interpreter inside is the installation's, whatever virtual environment the server runs in."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

import ossia


@pytest.mark.parametrize("symlinks", [True, False])
def test_code_runs_on_the_installations_own_interpreter(tmp_path: Path, symlinks: bool) -> None:
    venv.create(tmp_path / "venv", symlinks=symlinks)
    source = Path(ossia.__file__).parents[1]
    program = "from ossia.tools.python.layout import settings; print(settings(1 << 30).command[0])"
    done = subprocess.run(
        [str(tmp_path / "venv" / "bin" / "python"), "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(source), *sys.path])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(os.path.realpath(sys.base_prefix))
