"""How long `ossia serve` takes on a GPU, from exec to the first 200 of /health, phase by phase.

    python benchmarks/gpu_start.py [--geometry gpt-oss-20b] [-- OPTIONS of ossia serve]
    python benchmarks/gpu_start.py --checkpoint DIRECTORY [--cold-disk] [--rings]

Without a checkpoint weights are random and made on the GPU. A DIRECTORY that does not exist is
written first, with random weights made on the GPU, so that its files are in the page cache.
The server is started twice with kernel caches of its own: empty, then filled by the first start.
Each start prints one JSON line: seconds to the first 200, to the end of each phase as the server's
own lines tell them, and of a first answer of one token. `--rings` times reading the checkpoint to
the GPU by other numbers of threads and buffers.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LIMIT = 300.0  # seconds for a start
POLL = 0.01  # seconds between two questions for /health
# How the line begins that ends a phase.
PHASES = {
    "server_imports": "Starting ",
    "engine_process": "Starting the engine.",
    "engine_imports": "Looking for a GPU.",
    "cuda_and_plan": "Memory on cuda",
    "weights": "Loaded ",
    "kernels": "Kernels were ready",
    "ready": "Ready in ",
}
RINGS = [(4, 8, 16), (8, 16, 4), (8, 16, 8), (8, 16, 16), (8, 12, 64), (12, 24, 16), (16, 32, 8)]


def write_checkpoint(directory: Path, geometry: str) -> None:
    """A checkpoint with random weights that are made on the GPU."""
    import torch

    from ossia.checkpoint.convert import SHARD_BYTES
    from ossia.checkpoint.dummy import GEOMETRIES
    from ossia.checkpoint.layouts import stored_tensors
    from ossia.checkpoint.parts import model_parts
    from ossia.checkpoint.sources import DummySource
    from ossia.checkpoint.writer import CheckpointWriter, TensorPlan
    from ossia.config import model_config_to_hf

    started = time.monotonic()
    config = GEOMETRIES[geometry]
    source = DummySource(config, 0, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    parts = list(model_parts(config))
    plan = [
        TensorPlan(stored.name, source.dtype(part), stored.shape)
        for part in parts
        for stored in stored_tensors("hf", config, part)
    ]
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(config), indent=2) + "\n")
    with CheckpointWriter(directory, plan, SHARD_BYTES) as writer:
        for part in parts:
            stored = stored_tensors("hf", config, part)
            values = source.part(part).cpu().split([s.shape[0] for s in stored])
            for tensor, value in zip(stored, values, strict=True):
                writer.write(tensor.name, value)
    size = sum(tensor.nbytes for tensor in plan)
    seconds = time.monotonic() - started
    print(f"Wrote {size / 1e9:.1f} GB in {seconds:.0f} s.", file=sys.stderr, flush=True)


def time_rings(directory: Path) -> None:
    """Read all tensors to the GPU, with several shapes of the ring; a JSON line for each."""
    import torch

    from ossia.checkpoint.device_files import DeviceTensorFiles
    from ossia.checkpoint.read_ahead import Ring
    from ossia.checkpoint.reader import tensor_files

    device = torch.device("cuda")
    torch.zeros(1, device=device)
    for threads, buffers, mebibytes in RINGS:
        started = time.monotonic()
        ring = Ring(buffer_bytes=mebibytes << 20, buffers=buffers, threads=threads)
        files = DeviceTensorFiles(tensor_files(directory, "hf"), device, ring)
        names = sorted(files.entries, key=lambda n: (files.entries[n].file, files.entries[n].start))
        files.expect([names])
        size = sum(files.tensor(name).nbytes for name in names)
        torch.cuda.synchronize()
        seconds = time.monotonic() - started
        files.close()
        release = getattr(torch._C, "_host_emptyCache", None)
        if release is not None:
            release()  # so that the next ring pays for its own
        line = {"threads": threads, "buffers": buffers, "buffer_mib": mebibytes}
        print(json.dumps(line | {"s": round(seconds, 2), "gb_s": round(size / seconds / 1e9, 1)}))


def drop_from_page_cache(directory: Path) -> None:
    """Make the next start read from the disk."""
    for file in directory.glob("*.safetensors"):
        with file.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Server:
    """One start of `ossia serve`, and when it said what."""

    def __init__(self, arguments: list[str], caches: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        environment = os.environ | {
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "OSSIA_CACHE_DIR": str(caches / "ossia"),
            "CUDA_CACHE_PATH": str(caches / "driver"),
        }
        self.lines: list[tuple[float, str]] = []
        self._errors = caches / "stderr.log"
        self.started = time.monotonic()
        options = ["--port", str(self.port), "--log-level", "warning"]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ossia.cli", "serve", *arguments, *options],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic() - self.started, line.rstrip()))

    def wait_until_healthy(self) -> float:
        """Seconds until the first 200."""
        while time.monotonic() - self.started < LIMIT:
            if self._process.poll() is not None:
                said = "\n".join(line for _, line in self.lines)
                raise SystemExit(f"{said}\n{self._errors.read_text(errors='replace')[-4000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health")[0] == 200:
                    return time.monotonic() - self.started
            time.sleep(POLL)
        raise SystemExit(f"The server was not ready after {LIMIT:.0f} s.")

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        """The status and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        with contextlib.closing(connection):
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5)

    def phases(self) -> dict[str, float]:
        """Seconds from exec to the line that ends each phase."""
        found = {}
        for phase, beginning in PHASES.items():
            times = [at for at, line in self.lines if line.startswith(beginning)]
            if times:
                found[phase] = round(times[0], 2)
        return found


@contextlib.contextmanager
def running(arguments: list[str], caches: Path) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(arguments, caches)
    try:
        yield server
    finally:
        server.stop()


def measure(arguments: list[str], caches: Path) -> dict[str, Any]:
    """Start a server, ask it for one token, stop it."""
    with running(arguments, caches) as server:
        seconds = server.wait_until_healthy()
        asked = time.monotonic()
        model = json.loads(server.ask("GET", "/v1/models")[1])["data"][0]["id"]
        request = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        status, _ = server.ask("POST", "/v1/completions", request)
        return {
            "start_s": round(seconds, 2),
            "first_answer_s": round(time.monotonic() - asked, 2),
            "first_answer_status": status,
            "until_s": server.phases(),
            "lines": [line for _, line in server.lines if line.startswith(("Loaded", "Kernels"))],
        }


def versions() -> dict[str, str]:
    """What the figures belong to."""
    code = (
        "import json, torch; g = torch.cuda.is_available(); print(json.dumps({'torch': "
        "torch.__version__, 'device': torch.cuda.get_device_name(0) if g else 'cpu'}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return {"python": platform.python_version(), **json.loads(output.stdout)}


def main() -> None:
    """Parse the command line and measure two starts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--geometry", default="gpt-oss-20b", help="of random weights")
    parser.add_argument("--checkpoint", type=Path, help="directory; written if it does not exist")
    parser.add_argument("--cold-disk", action="store_true", help="drop it from the page cache")
    parser.add_argument("--rings", action="store_true", help="time shapes of the ring")
    parser.add_argument("options", nargs="*", help="of ossia serve, after --")
    args = parser.parse_args()
    if args.checkpoint is None:
        arguments, weights = [args.geometry, "--load-format", "dummy"], "made on the GPU"
    else:
        arguments, weights = [str(args.checkpoint)], "disk" if args.cold_disk else "page cache"
        if not args.checkpoint.exists():
            write_checkpoint(args.checkpoint, args.geometry)
        if args.rings:
            time_rings(args.checkpoint)
    with tempfile.TemporaryDirectory() as caches:
        for kernel_cache in ("empty", "warm"):
            if args.cold_disk and args.checkpoint is not None:
                drop_from_page_cache(args.checkpoint)
            figures = measure([*arguments, *args.options], Path(caches))
            line = {"benchmark": "gpu_start", "model": arguments[0], "weights": weights}
            print(json.dumps(line | {"kernel_cache": kernel_cache} | figures | versions()))
            sys.stdout.flush()


if __name__ == "__main__":
    main()
