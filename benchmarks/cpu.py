"""The whole model on a CPU: loading, decoding, prompts, memory, and the kernels by themselves.

    python benchmarks/cpu.py DIRECTORY [--gguf FILE] [--rounds 2] [--tokens 16] [--skip PART ...]

Writes a checkpoint with the geometry of gpt-oss-20b and random weights to DIRECTORY (13.8 GB) if
there is none, and keeps the ordered copy beside it (DIRECTORY-cache, 11.5 GB). Every part runs in a
fresh process; `model` and `llama` take turns, so that other work on the machine disturbs both
alike, and the best of all rounds counts. One JSON object is printed:

    load     seconds until the engine is ready, first and second time, with the files in the
             system's memory as far as they fit, and the peak of the engine's memory
    model    tokens/s with 1, 4 and 8 streams, prompts of 64 and 512 tokens; the shares of a step
             at one stream that are spent in the network and inside the library's kernels; a plain
             read of memory in the same process
    busy     one stream while another process keeps a core busy
    kernels  the table of `ossia bench kernels`
    demo     tokens/s of the bundled demo model, on torch alone and with the native kernels
    llama    the same as `model` with llama-cpp-python and a GGUF file, where both are there, and
             Ossia's figures divided by its

Memory is RssAnon + RssFile of /proc/self/status, sampled twenty times a second. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from load_20b import PeakMemory, in_fresh_process, write_checkpoint

STREAMS = (1, 4, 8)
PROMPTS = (64, 512)
READ_BYTES = 1 << 29
GIB = 1 << 30
VOCABULARY = 199_000  # ids of ordinary tokens
Figures = dict[str, Any]


class KernelClock:
    """Adds up the seconds inside the native library's blocks, in engines that start later."""

    def __init__(self) -> None:
        from ossia.kernels.native import library

        self.seconds = 0.0
        load = library.load

        def timed_load(path: Path | None = None) -> Any:
            loaded = load(path)
            for name in ("ossia_layers", "ossia_head"):
                setattr(loaded, name, self._timed(getattr(loaded, name)))
            return loaded

        library.load = timed_load

    def _timed(self, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            self.seconds += time.perf_counter() - began
            return result

        return call


class Timer:
    """Steps of an engine in this process."""

    def __init__(
        self,
        model: str,
        backend: str = "auto",
        threads: int | None = None,
        clock: KernelClock | None = None,
    ) -> None:
        from ossia.config import EngineConfig
        from ossia.engine.start import start_engine

        began = time.monotonic()
        config = EngineConfig(
            model=model,
            device="cpu",
            attention_backend=backend,  # type: ignore[arg-type]
            max_model_len=4096,
            num_threads=threads,
            enable_prefix_caching=False,
        )
        self._engine = start_engine(config, lambda text: print(text, file=sys.stderr, flush=True))
        self.ready = time.monotonic() - began
        self._requests = 0
        self._clock = clock
        self.kernel_share = 0.0  # of all seconds of the steps of the last `decode`

    def steps(self, streams: int, prompt: int, tokens: int) -> list[tuple[float, float, int]]:
        """Seconds, seconds in the network, and tokens of each step of some requests."""
        from ossia.engine.messages import Generate
        from ossia.sampling import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        for _ in range(streams):
            self._requests += 1
            ids = [(7919 * i * self._requests) % VOCABULARY for i in range(1, prompt + 1)]
            self._engine.add(Generate(str(self._requests), ids, params))
        found = []
        while self._engine.has_work:
            before, began = self._engine.stats.model_seconds, time.perf_counter()
            output = self._engine.step()
            seconds = time.perf_counter() - began
            count = sum(len(chunk.token_ids) for chunk in output.chunks)
            found.append((seconds, self._engine.stats.model_seconds - before, count))
        return found

    def decode(self, streams: int, tokens: int) -> tuple[float, float, float]:
        """Tokens/s of the best and the median step, and the network's share of all steps."""
        before = self._clock.seconds if self._clock else 0.0
        every = self.steps(streams, 16, tokens)
        if self._clock:
            self.kernel_share = (self._clock.seconds - before) / sum(step[0] for step in every)
        steps = [step for step in every if step[2] == streams][1:]
        seconds = sorted(step[0] for step in steps)
        share = sum(step[1] for step in steps) / sum(seconds)
        return streams / seconds[0], streams / statistics.median(seconds), share

    def prefill(self, tokens: int) -> float:
        """Tokens/s of a prompt, of its first token's step."""
        return tokens / sum(step[0] for step in self.steps(1, tokens, 1))


def part_load(args: argparse.Namespace) -> Figures:
    """Load once. The first time waits until the ordered copy is on the disk."""
    memory = PeakMemory()
    memory.start()
    timer = Timer(args.directory)
    figures: Figures = {"ready_seconds": round(timer.ready, 2)}
    timer.steps(1, 64, 4)
    folder = Path(os.environ["OSSIA_CACHE_DIR"]) / "native"
    end = time.monotonic() + 300
    while not any(folder.glob("*.safetensors")) and time.monotonic() < end:
        time.sleep(0.5)
    memory.stop()
    return figures | {"peak_gib": round(memory.peak["total"] / GIB, 2)}


def part_model(args: argparse.Namespace) -> Figures:
    """Decoding and prompts."""
    memory = PeakMemory()
    memory.start()
    clock = KernelClock()
    timer = Timer(args.directory, clock=clock)
    figures: Figures = {"plain_read_gb_s": plain_read(), "peak_gib": 0.0}
    for streams in STREAMS:
        best, median, share = timer.decode(streams, args.tokens)
        figures[f"decode_{streams}"] = round(best, 2)
        figures[f"decode_{streams}_median"] = round(median, 2)
        if streams == 1:
            figures["network_share_of_step"] = round(share, 4)
            figures["kernel_share_of_step"] = round(timer.kernel_share, 4)
    for tokens in PROMPTS:
        figures[f"prefill_{tokens}"] = round(max(timer.prefill(tokens) for _ in range(2)), 1)
    figures["plain_read_gb_s"] = max(figures["plain_read_gb_s"], plain_read())
    memory.stop()
    figures["peak_gib"] = round(memory.peak["total"] / GIB, 2)
    return figures


def part_busy(args: argparse.Namespace) -> Figures:
    """One stream beside a process that never waits."""
    timer = Timer(args.directory)
    alone = timer.decode(1, args.tokens)[1]
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        shared = timer.decode(1, args.tokens)[1]
    finally:
        other.kill()
        other.wait()
    return {
        "decode_1_median_alone": round(alone, 2),
        "decode_1_median_beside": round(shared, 2),
        "kept": round(shared / alone, 3),
    }


def part_kernels(args: argparse.Namespace) -> Figures:
    """The kernels against a plain read and torch's own product."""
    del args
    from ossia.kernels.native.library import open_context
    from ossia.kernels.native.measure import measure

    table = measure(open_context())
    return {
        entry.name: {entry.unit: round(entry.speed, 1), "share": round(entry.share_of_ceiling, 3)}
        for entry in table
    }


def part_demo(args: argparse.Namespace) -> Figures:
    """The demo model with the backend `args.backend`."""
    timer = Timer("demo", args.backend)
    figures = {}
    for streams in (1, 8):
        runs = [timer.steps(streams, 40, 200) for _ in range(3)]
        speeds = [sum(s[2] for s in run) / sum(s[0] for s in run) for run in runs]
        figures[f"tokens_s_{streams}"] = round(max(speeds), 1)
    return figures


def part_llama(args: argparse.Namespace) -> Figures:
    """The same work in llama.cpp, through the C interface of llama-cpp-python."""
    import llama_cpp as c

    c.llama_backend_init()
    load = getattr(c, "llama_model_load_from_file", None) or c.llama_load_model_from_file
    create = getattr(c, "llama_init_from_model", None) or c.llama_new_context_with_model
    began = time.monotonic()
    model = load(args.gguf.encode(), c.llama_model_default_params())
    figures: Figures = {"ready_seconds": round(time.monotonic() - began, 2)}
    params = c.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_seq_max = 4096 * max(STREAMS), 512, max(STREAMS)
    params.n_threads = params.n_threads_batch = len(os.sched_getaffinity(0))
    context = create(model, params)
    places = [0] * max(STREAMS)  # tokens of each sequence so far
    batch = c.llama_batch_init(512, 0, 1)

    def run(tokens: Iterable[tuple[int, int]]) -> float:
        """Seconds for (sequence, token) in one batch, with logits for the last of each."""
        entries = list(tokens)
        batch.n_tokens = len(entries)
        last = {sequence: i for i, (sequence, _) in enumerate(entries)}
        for i, (sequence, token) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, places[sequence], 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = int(last[sequence] == i)
            places[sequence] += 1
        start = time.perf_counter()
        if c.llama_decode(context, batch) != 0:
            raise SystemExit("llama.cpp could not decode a batch.")
        return time.perf_counter() - start

    for sequence in range(max(STREAMS)):
        run((sequence, (7919 * i) % VOCABULARY) for i in range(1, 17))
    for streams in STREAMS:
        seconds = sorted(
            run((s, (104729 * (s + step)) % VOCABULARY) for s in range(streams))
            for step in range(args.tokens)
        )
        figures[f"decode_{streams}"] = round(streams / seconds[0], 2)
        figures[f"decode_{streams}_median"] = round(streams / statistics.median(seconds), 2)
    for tokens in PROMPTS:
        times = [run((0, (7919 * i) % VOCABULARY) for i in range(tokens)) for _ in range(2)]
        figures[f"prefill_{tokens}"] = round(tokens / min(times), 1)
    return figures


def plain_read() -> float:
    """GB/s of reading memory with all threads, the best of five."""
    import torch

    from ossia.kernels.native.library import open_context
    from ossia.kernels.native.operations import plain_read as read

    context, memory = open_context(), torch.ones(READ_BYTES, dtype=torch.uint8)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        read(context, memory)
        best = min(best, time.perf_counter() - began)
    return round(READ_BYTES / best / 1e9, 2)


def in_child(args: argparse.Namespace, part: str, *options: str) -> Figures:
    """The figures of one part, from a process of its own."""
    print(f"-- {part}", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, args.directory, "--part", part, *options]
    command += ["--tokens", str(args.tokens)] + (["--gguf", args.gguf] if args.gguf else [])
    environment = dict(os.environ, OSSIA_CACHE_DIR=f"{args.directory}-cache")
    if part == "demo":
        environment.pop("OSSIA_CACHE_DIR")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def has_llama(args: argparse.Namespace) -> bool:
    """Whether there is something to compare with."""
    if not args.gguf:
        return False
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        print("llama-cpp-python is not installed; --gguf is not used.", file=sys.stderr)
        return False
    return True


def best_of(rounds: list[Figures]) -> Figures:
    """The best of each figure: the largest, but the least memory and time."""
    least = ("peak_gib", "ready_seconds")
    return {
        name: (min if name in least else max)(figures[name] for figures in rounds)
        for name in rounds[0]
    }


def whole(args: argparse.Namespace) -> Figures:
    """All parts."""
    if not Path(args.directory).exists():
        in_fresh_process(write_checkpoint, args.directory)
    result: Figures = {"processor": processor(), "cores": len(os.sched_getaffinity(0))}
    if "load" not in args.skip:
        shutil.rmtree(f"{args.directory}-cache", ignore_errors=True)
        read_through(Path(args.directory))
        result["load"] = {"first": in_child(args, "load"), "second": in_child(args, "load")}
    llama = has_llama(args)
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(in_child(args, "model"))
        if llama:
            theirs.append(in_child(args, "llama"))
    result["model"] = best_of(ours)
    if theirs:
        result["llama"] = best_of(theirs)
        result["ratios"] = {
            name: round(result["model"][name] / value, 2)
            for name, value in result["llama"].items()
            if name in result["model"]
        }
    for part in ("busy", "kernels"):
        if part not in args.skip:
            result[part] = in_child(args, part)
    if "demo" not in args.skip:
        result["demo"] = {
            "torch": in_child(args, "demo", "--backend", "TORCH"),
            "native": in_child(args, "demo", "--backend", "auto"),
        }
    return result


def read_through(directory: Path) -> None:
    """Have the system keep the files in memory, as far as they fit."""
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 24):
                pass


def processor() -> str:
    """Its name, as Linux knows it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown"


PARTS = {
    "load": part_load,
    "model": part_model,
    "busy": part_busy,
    "kernels": part_kernels,
    "demo": part_demo,
    "llama": part_llama,
}


def main() -> None:
    """Parse the command line and run all parts, or one in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", help="the checkpoint, written if it does not exist")
    parser.add_argument("--gguf", help="the same geometry for llama-cpp-python")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=16, help="to generate in each measurement")
    parser.add_argument(
        "--skip", nargs="*", default=[], choices=("load", "busy", "kernels", "demo")
    )
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--backend", default="auto", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.directory = str(Path(args.directory).resolve())
    figures = whole(args) if args.part is None else PARTS[args.part](args)
    print(json.dumps(figures, indent=2 if args.part is None else None))


if __name__ == "__main__":
    main()
