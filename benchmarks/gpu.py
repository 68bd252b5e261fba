"""The engine on one GPU: decoding and prefill at several sizes, a mixed load, the start, kernels.

    python -m benchmarks.gpu [--model gpt-oss-20b] [--load-format dummy] [--only decode_bs1,mix256]
                             [--no-kernels] [--quick]

Prints one line a row, and writes benchmarks/results/gpu-<card>-<date>.json. The rows:

- decode_bsN: N sequences of 128 random tokens, 512 more each at temperature 1; tokens a second
  of all together, from the moment that all have 16 tokens until the first is done; median of 3.
- decode_bs1_ctx7000: one sequence behind 7,000 tokens, 256 more.
- prefill_8000, prefill_32x2048: prompt tokens a second until the last first token; median of 5.
- mix256: 256 sequences at once, 100 to 1,024 tokens in and out (random, seed 0); generated tokens a
  second of the whole run.
- first_token_ms: of a prompt of 128 and one of 1,000 tokens, nothing else running; medians of 20.
- start_s: seconds from starting a process to an engine that is ready, imports included.

Nothing comes from the prefix cache: all prompts are random. With `--load-format dummy` the weights
are random too, and spread the routing as real ones do.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

KERNELS = ("dense_one", "dense_few", "route", "moe_decode", "moe_prefill", "attention", "sampling")
DECODE = (1, 8, 32, 64, 128, 256)
FIRST_ORDINARY, LAST_ORDINARY = 1000, 190_000  # token ids of prompts


class Load:
    """Feeds an engine with random prompts and counts what comes back."""

    def __init__(self, core: Any, seed: int = 0) -> None:
        self.core = core
        self.random = random.Random(seed)
        self.sent = 0

    def send(self, prompt_tokens: int, new_tokens: int, temperature: float = 1.0) -> str:
        """Queue one sequence; its id."""
        from ossia.engine.messages import Generate
        from ossia.sampling import SamplingParams

        prompt = [self.random.randint(FIRST_ORDINARY, LAST_ORDINARY) for _ in range(prompt_tokens)]
        request_id = f"r{self.sent}"
        self.sent += 1
        params = SamplingParams(
            max_tokens=new_tokens, ignore_eos=True, temperature=temperature, seed=self.sent
        )
        self.core.add(Generate(request_id, prompt, params))
        return request_id

    def run(self, watch: Callable[[dict[str, int], float], None]) -> dict[str, int]:
        """Step until there is no work; tokens by id. `watch` is called after each step."""
        counts: dict[str, int] = {}
        while self.core.has_work:
            for chunk in self.core.step().chunks:
                if chunk.error:
                    raise RuntimeError(chunk.error)
                counts[chunk.request_id] = counts.get(chunk.request_id, 0) + len(chunk.token_ids)
            watch(counts, time.perf_counter())
        return counts


def decode(core: Any, streams: int, prompt: int, new: int, skip: int = 16) -> float:
    """Tokens a second while all streams decode."""
    load = Load(core, seed=streams * 7919 + prompt)
    for _ in range(streams):
        load.send(prompt, new)
    marks: list[tuple[float, int]] = []

    def watch(counts: dict[str, int], now: float) -> None:
        least = min(counts.values()) if len(counts) == streams else 0
        if least >= skip and max(counts.values()) < new:
            marks.append((now, sum(counts.values())))

    load.run(watch)
    (begun, first), (ended, last) = marks[0], marks[-1]
    return (last - first) / (ended - begun)


def prefill(core: Any, streams: int, prompt: int, seed: int) -> float:
    """Prompt tokens a second until every stream has its first token."""
    load = Load(core, seed)
    for _ in range(streams):
        load.send(prompt, 1)
    begun = time.perf_counter()
    load.run(lambda counts, now: None)
    return streams * prompt / (time.perf_counter() - begun)


def mixed(core: Any, streams: int) -> float:
    """Generated tokens a second of a whole mixed load."""
    load = Load(core, seed=0)
    lengths = random.Random(0)
    for _ in range(streams):
        load.send(lengths.randint(100, 1024), lengths.randint(100, 1024))
    begun = time.perf_counter()
    counts = load.run(lambda counts, now: None)
    return sum(counts.values()) / (time.perf_counter() - begun)


def measure(core: Any, only: set[str], quick: bool, say: Callable[[str, float], None]) -> None:
    """Run every row that is wanted, in order."""

    def wanted(name: str) -> bool:
        return not only or name in only

    new = 128 if quick else 512
    for streams in DECODE:
        name = f"decode_bs{streams}"
        if wanted(name):
            decode(core, streams, 32, 64, skip=2)
            found = [decode(core, streams, 128, new) for _ in range(1 if quick else 3)]
            say(name, statistics.median(found))
        if streams == 1 and wanted("decode_bs1_ctx7000"):
            say("decode_bs1_ctx7000", decode(core, 1, 7000, 128 if quick else 256))
    for name, streams, prompt in (("prefill_8000", 1, 8000), ("prefill_32x2048", 32, 2048)):
        if wanted(name):
            found = [prefill(core, streams, prompt, seed) for seed in range(3 if quick else 5)]
            say(name, statistics.median(found))
    if wanted("mix256"):
        say("mix256", mixed(core, 256))


def first_token_ms(core: Any, prompt: int) -> float:
    """Milliseconds from a request to its first token, the median of 20."""
    prefill(core, 1, prompt, seed=100)
    return 1e3 * statistics.median(prompt / prefill(core, 1, prompt, seed) for seed in range(20))


def start_seconds(model: str, load_format: str) -> float:
    """Seconds of a process of its own from its start to an engine that is ready."""
    code = (
        "from ossia.config import EngineConfig\n"
        "from ossia.engine.start import start_engine\n"
        f"start_engine(EngineConfig(model={model!r}, load_format={load_format!r}))\n"
        "print('ready', flush=True)\n"
    )
    begun = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        seconds = time.perf_counter() - begun
    if line.strip() != "ready":
        raise RuntimeError("The engine did not start.")
    return seconds


def kernels(quick: bool) -> list[dict[str, Any]]:
    """What the kernel benchmarks print."""
    lines = []
    for part in KERNELS:
        command = [sys.executable, "-m", f"benchmarks.kernels.{part}", *(["--quick"] * quick)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            lines.append({"kernel": part, "error": run.stderr[-300:]})
        lines += [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    return lines


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="gpt-oss-20b")
    parser.add_argument("--load-format", default="dummy")
    parser.add_argument("--only", default="", help="rows, separated by commas")
    parser.add_argument("--no-kernels", action="store_true")
    parser.add_argument("--quick", action="store_true", help="shorter runs, larger spread")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    args = parser.parse_args()
    import torch
    import triton

    from ossia.config import EngineConfig
    from ossia.engine.start import start_engine

    only = set(filter(None, args.only.split(",")))
    name = torch.cuda.get_device_name()
    card = name.split()[1].lower() if name.startswith("NVIDIA") else name.lower()
    result: dict[str, Any] = {
        "card": name,
        "date": date.today().isoformat(),
        "model": args.model,
        "load_format": args.load_format,
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "triton": triton.__version__,
        },
        "rows": [],
    }

    def say(row: str, tok_s: float) -> None:
        print(f"{row:20} {tok_s:12.1f} tok/s", flush=True)
        result["rows"].append({"name": row, "tok_s": round(tok_s, 1)})

    if not only or "start_s" in only:
        result["start_s"] = round(start_seconds(args.model, args.load_format), 2)
        print(f"{'start_s':20} {result['start_s']:12.2f} s", flush=True)
    core = start_engine(EngineConfig(model=args.model, load_format=args.load_format), print)
    # As the server's engine process does it: graphs are captured while there is no work, and what
    # was loaded is left out of the collections of garbage.
    while core.prepare_ahead():
        pass
    gc.collect()
    gc.freeze()
    try:
        measure(core, only, args.quick, say)
        if not only or "first_token_ms" in only:
            result["first_token_ms"] = {n: round(first_token_ms(core, n), 2) for n in (128, 1000)}
            print(f"{'first_token_ms':20} {result['first_token_ms']}", flush=True)
    finally:
        del core
        if not args.no_kernels and not only:
            result["kernels"] = kernels(args.quick)
        args.output.mkdir(parents=True, exist_ok=True)
        path = args.output / f"gpu-{card}-{result['date']}.json"
        path.write_text(json.dumps(result, indent=1) + "\n")
        print(f"Written to {path}.")


if __name__ == "__main__":
    main()
