"""Set up `.venv` beside this repository and keep it up to date. Standard library only.

    python3 scripts/bootstrap.py run    what serving needs
    python3 scripts/bootstrap.py test   and what the tests need
    python3 scripts/bootstrap.py dev    and what `make check` needs

A second call with nothing changed returns at once.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = {"run": "", "test": "[test]", "dev": "[test,dev]"}
TRITON = "triton==3.6.0"  # what the GPU kernels were measured with
SUPPORTED = ((3, 11), (3, 12))
HEARTBEAT = 15.0  # seconds between signs of life during a long step


def main(level: str) -> int:
    if sys.version_info[:2] not in SUPPORTED:
        print(
            f"Ossia needs Python 3.11 or 3.12, and this is {platform.python_version()}; "
            "install one of them and call: make PYTHON=python3.12 ..."
        )
        return 1
    stamp = VENV / f".ossia-{level}"
    wanted = _fingerprint(level)
    if stamp.exists() and stamp.read_text() == wanted:
        return 0
    try:
        _set_up(level)
    except subprocess.CalledProcessError as error:
        print(f"Setting up failed in: {' '.join(map(str, error.cmd))}")
        print("The lines above say why; once that is mended, call make again: it continues here.")
        return 1
    stamp.write_text(wanted)
    return 0


def _set_up(level: str) -> None:
    if not (VENV / "bin" / "python").exists():
        print(f"Creating .venv with Python {platform.python_version()} ...", flush=True)
        try:
            venv.create(VENV, with_pip=True)
        except subprocess.CalledProcessError:
            shutil.rmtree(VENV, ignore_errors=True)
            print("This Python has no ensurepip; on Debian and Ubuntu: apt install python3-venv")
            raise
    pins = ("-c", str(CONSTRAINTS))
    if not _installed("torch"):
        _install_torch(pins)
    _step(
        "Installing the other packages",
        [*_pip("install"), *pins, "-e", f"{ROOT}{EXTRAS[level]}"],
    )
    if level != "run" and platform.system() == "Linux" and not _installed("triton"):
        # torch for CUDA brings the version that it needs. Without it those tests are skipped.
        interpreter = [*_pip("install"), "--no-deps", TRITON]
        _step(
            "Installing Triton, which interprets the GPU kernels in tests",
            interpreter,
            needed=False,
        )


def _install_torch(pins: tuple[str, ...]) -> None:
    """The CUDA build where there is an NVIDIA GPU, the much smaller CPU build elsewhere."""
    pinned = next(line for line in CONSTRAINTS.read_text().splitlines() if line[:7] == "torch==")
    if platform.system() != "Linux" or _has_gpu():
        what = "with CUDA, several GB" if _has_gpu() else "about 100 MB"
        _step(f"Installing PyTorch ({what})", [*_pip("install"), *pins, pinned])
        return
    # A wheel in a local folder that pip is configured with is a CPU build someone put there.
    local = [*_pip("install"), "--no-index", "--no-deps", pinned]
    if _step("Looking for a PyTorch wheel on this machine", local, needed=False):
        return
    # pip alone cannot ask for the CPU build by name; uv can.
    _step("Installing uv, which knows where CPU builds are", [*_pip("install"), *pins, "uv"])
    uv = [str(VENV / "bin" / "uv"), "pip", "install", "--python", str(VENV / "bin" / "python")]
    wanted = [*uv, "--torch-backend", "cpu", "--quiet", pinned]
    if not _step("Installing PyTorch (CPU build, about 200 MB)", wanted, needed=False):
        _step("Installing PyTorch (default build)", [*_pip("install"), *pins, pinned])


def _step(title: str, command: list[str], *, needed: bool = True) -> bool:
    """Run a command quietly with a sign of life; show its output only if it was needed and failed.

    Raises:
        subprocess.CalledProcessError: the step was needed and failed.
    """
    print(f"{title} ...", flush=True)
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        while True:
            try:
                code = process.wait(timeout=HEARTBEAT)
                break
            except subprocess.TimeoutExpired:
                print(f"  still at it, {time.monotonic() - start:.0f} s", flush=True)
        if code and needed:
            log.seek(0)
            print(log.read())
            raise subprocess.CalledProcessError(code, command)
    outcome = "not there" if code else "done"
    print(f"  {outcome} in {time.monotonic() - start:.0f} s", flush=True)
    return code == 0


def _pip(command: str) -> list[str]:
    python = str(VENV / "bin" / "python")
    return [python, "-m", "pip", "--disable-pip-version-check", command, "-q"]


def _installed(module: str) -> bool:
    check = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module!r}) is None)"
    return subprocess.run([str(VENV / "bin" / "python"), "-c", check]).returncode == 0


def _has_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listing.returncode == 0 and "GPU 0" in listing.stdout


def _fingerprint(level: str) -> str:
    digest = hashlib.sha256(level.encode())
    native = sorted((ROOT / "src/ossia/kernels/native").glob("*.[ch]*"))  # built at install
    for file in (ROOT / "pyproject.toml", ROOT / "setup.py", CONSTRAINTS, Path(__file__), *native):
        digest.update(file.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "run"))
