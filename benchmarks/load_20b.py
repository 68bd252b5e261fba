"""Loads a full-size gpt-oss-20b checkpoint on the CPU, answers, and measures memory and time.

    python benchmarks/load_20b.py DIRECTORY [--prompt-tokens 16] [--tokens 8] [--dtype bfloat16]

Writes a checkpoint with the geometry of gpt-oss-20b and random weights to DIRECTORY (13.8 GB) if
there is none, then starts the engine on it in a fresh process, generates tokens greedily, and
prints the times and the peak of the resident memory as one JSON object. Resident memory is
RssAnon + RssFile of /proc/self/status, sampled twenty times a second: the process's own memory and
the pages of the checkpoint that are mapped. Linux only.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import threading
import time
from itertools import pairwise
from pathlib import Path

SAMPLE_EVERY = 0.05  # seconds


class PeakMemory(threading.Thread):
    """Samples the resident memory of this process until stopped; sizes in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = {"total": 0, "anonymous": 0, "file": 0}  # each its own peak
        self._done = threading.Event()

    def run(self) -> None:
        """Sample until `stop`."""
        while not self._done.wait(SAMPLE_EVERY):
            self.sample()

    def sample(self) -> dict[str, int]:
        """What is resident now."""
        sizes = {}
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "RssFile"):
                sizes[name] = int(value.split()[0]) * 1024
        now = {"anonymous": sizes["RssAnon"], "file": sizes["RssFile"]}
        now["total"] = now["anonymous"] + now["file"]
        for name, size in now.items():
            self.peak[name] = max(self.peak[name], size)
        return now

    def stop(self) -> None:
        """End sampling."""
        self.sample()
        self._done.set()
        self.join()


def write_checkpoint(directory: str) -> None:
    """A 20b checkpoint with random weights."""
    from ossia.checkpoint.convert import convert
    from ossia.checkpoint.resolve import resolve_model

    memory = PeakMemory()
    memory.start()
    source = resolve_model("gpt-oss-20b", load_format="dummy")
    report = convert(source, Path(directory), progress=lambda text: print(text, flush=True))
    memory.stop()
    print(
        f"Wrote {report.total_bytes / 1e9:.2f} GB in {report.seconds:.0f} s with "
        f"{memory.peak['anonymous'] / 2**30:.2f} GiB of memory.",
        flush=True,
    )


def measure(args: argparse.Namespace) -> None:
    """Load, generate, print the figures."""
    memory = PeakMemory()
    memory.start()
    started = time.monotonic()
    from ossia.config import EngineConfig
    from ossia.engine.messages import Generate
    from ossia.engine.start import start_engine
    from ossia.sampling import SamplingParams

    config = EngineConfig(
        model=args.directory,
        device="cpu",
        dtype=args.dtype,
        max_model_len=args.max_model_len,
        max_num_seqs=1,
        max_num_batched_tokens=args.prompt_tokens,
    )
    engine = start_engine(config, lambda text: print(text, flush=True))
    ready = time.monotonic() - started
    loaded = memory.sample()
    prompt = [(7919 * i) % 199_000 for i in range(1, args.prompt_tokens + 1)]
    params = SamplingParams(temperature=0.0, max_tokens=args.tokens, ignore_eos=True)
    engine.add(Generate("0", prompt, params))
    tokens: list[int] = []
    times = [time.monotonic()]
    while engine.has_work:
        for chunk in engine.step().chunks:
            tokens += chunk.token_ids
            times.append(time.monotonic())
    memory.stop()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    steps = [after - before for before, after in pairwise(times)]
    figures = {
        "ready_seconds": round(ready, 2),
        "prompt_tokens": args.prompt_tokens,
        "first_token_seconds": round(steps[0], 2),
        "seconds_per_further_token": round(sum(steps[1:]) / max(1, len(steps) - 1), 2),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "page_faults_from_disk": usage.ru_majflt,
        "tokens": tokens,
        "resident_gib_when_ready": {n: round(size / 2**30, 2) for n, size in loaded.items()},
        "peak_resident_gib": {n: round(size / 2**30, 2) for n, size in memory.peak.items()},
        "memory_plan": engine.info.memory_plan,
    }
    print(json.dumps(figures, indent=2))


def in_fresh_process(target: object, argument: object) -> None:
    """Run in a process of its own, so that its memory is measured alone."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=(argument,))  # type: ignore[arg-type]
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit(process.exitcode)


def main() -> None:
    """Parse the command line and run both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="the checkpoint, written if it does not exist")
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=8, help="to generate")
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--max-model-len", type=int, default=4096)
    args = parser.parse_args()
    if not Path(args.directory).exists():
        in_fresh_process(write_checkpoint, args.directory)
    in_fresh_process(measure, args)


if __name__ == "__main__":
    main()
