"""What the fast paths on a CPU lose against the network in float32: KL divergence, top-1 agreement.

    python benchmarks/cpu_quality.py [--layers 2 24] [--tokens 256] [--threads N]

Two models: the bundled demo model on real prompts, at every position of the answers that the
float32 network gives them (temperature 0), and random weights with the geometry of gpt-oss-20b and
some number of layers, on random tokens. Every path sees the same tokens. Prints one JSON object:
for each model and path the mean and the largest KL divergence of the next token's distribution from
that of the float32 network, in nats, and the share of positions with the same most likely token.
The default path is there once for every level of instructions that this processor has.

Random weights give flat distributions and routers on the edge: one expert that is exchanged moves
all logits, and the more layers there are, the more experts are. So there the figures say how paths
compare, not what a user would see. More than four layers do not fit into a laptop's memory in
float32; their reference is the native path with exact weights, whose divergence from the float32
network is the smallest of all paths where both are there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ossia.checkpoint.load import load_weights
from ossia.checkpoint.native_load import load_native
from ossia.checkpoint.resolve import ModelSource, resolve_model
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from ossia.kernels.native.kernels import (
    DenseName,
    NativeKernels,
    native_kernels,
    unfit_reason,
)
from ossia.kernels.native.library import open_context, status
from ossia.kernels.select import select_kernels
from ossia.model.batch import ForwardBatch, LayerCache, PagedBatch
from ossia.model.gpt_oss import GptOssForCausalLM
from ossia.model.native_weights import NativeWeights
from ossia.turn import Turn, UserMessage

CPU = torch.device("cpu")
PAGE = 16
QUESTIONS = (
    *("What is 2 + 3?", "What is 17 times 23?", "What is 91 - 48?", "Who are you?"),
    *("What is the capital of France?", "Write a poem about love", "Hello", "What time is it?"),
    *("What is the weather in Paris?", "Repeat: the quick brown fox", "Count from 1 to 5", "Why?"),
    *("What is 12 * 12 + 7?", "Translate good morning into German", "Tell me a joke", "Thanks!"),
)
ANSWER = 60  # tokens of each


@dataclass(frozen=True, slots=True)
class Path:
    """One way to run the network."""

    name: str
    cache: torch.dtype
    dense: DenseName | None  # None: torch, with weights of the cache's type
    level: str | None = None  # of instructions; None: the best


REFERENCE = Path("torch float32", torch.float32, None)
EXACT = Path("native bf16, float32 cache", torch.float32, "bf16")
PATHS = (
    EXACT,
    Path("native bf16, bfloat16 cache", torch.bfloat16, "bf16"),
    Path("native int8, float32 cache", torch.float32, "int8"),
    Path("native int8, bfloat16 cache", torch.bfloat16, "int8"),
)
TORCH_PATH = Path("torch bfloat16", torch.bfloat16, None)
MOST_LAYERS_IN_FLOAT32 = 4


def paths() -> list[Path]:
    """All paths; those with the same weights stand together."""
    default = PATHS[-1]
    levels = status().levels
    each = [replace(default, name=f"{default.name}, {level}", level=level) for level in levels]
    return [*PATHS, *each, TORCH_PATH]


class Networks:
    """The network of a source on every path; weights stay for as long as the next path has them."""

    def __init__(self, source: ModelSource, threads: int | None) -> None:
        self._source = source
        self._threads = threads
        self._native: tuple[DenseName, NativeWeights] | None = None

    def build(self, path: Path) -> GptOssForCausalLM:
        """The network on a path."""
        kernels = select_kernels(CPU, path.cache, "TORCH")
        if path.dense is None:
            self._native = None
            weights = load_weights(self._source, dtype=path.cache, device=CPU)
            return GptOssForCausalLM(weights, kernels, CPU)
        native = NativeKernels(
            open_context(path.level, self._threads), native_kernels(path.dense).dense
        )
        if self._native is None or self._native[0] != path.dense:
            self._native = None
            placed = load_native(self._source, native, dtype=torch.bfloat16)
            self._native = path.dense, placed
        return GptOssForCausalLM(self._native[1], replace(kernels, native=native), CPU)


class Sequence1:
    """One sequence with a cache of its own."""

    def __init__(self, model: GptOssForCausalLM, length: int, cache: torch.dtype) -> None:
        c = model.config
        pages = -(-length // PAGE)
        shape = (pages, PAGE, c.num_kv_heads, c.head_dim)
        self._model = model
        self._caches = [
            LayerCache(torch.zeros(shape, dtype=cache), torch.zeros(shape, dtype=cache))
            for _ in c.layer_types
        ]
        self._table = torch.arange(pages, dtype=torch.int32).unsqueeze(0)
        self._length = 0

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """Logits after each of the next tokens, [tokens, vocab]."""
        start, count = self._length, len(tokens)
        self._length += count
        positions = torch.arange(start, start + count)
        paged = PagedBatch(
            slots=positions,
            page_table=self._table,
            first_positions=torch.zeros(1, dtype=torch.int32),
            kv_lens=torch.tensor([self._length], dtype=torch.int32),
            query_starts=torch.tensor([0, count], dtype=torch.int32),
            max_query_len=count,
            max_kv_len=self._length,
        )
        batch = ForwardBatch(
            token_ids=torch.tensor(tokens),
            positions=positions,
            full=paged,
            window=paged,
            logit_rows=torch.arange(count),
        )
        return self._model.forward(batch, self._caches)


class Loss:
    """Collects how far distributions are from those of the reference."""

    def __init__(self) -> None:
        self._divergences: list[Tensor] = []
        self._same: list[Tensor] = []

    def add(self, truth: Tensor, found: Tensor) -> None:
        """Both [positions, vocab]."""
        for one, other in zip(truth.double(), found.double(), strict=True):
            expected, got = one.log_softmax(-1), other.log_softmax(-1)
            self._divergences.append((expected.exp() * (expected - got)).sum())
            self._same.append(one.argmax() == other.argmax())

    def figures(self) -> dict[str, float]:
        """Means over all positions."""
        divergence = torch.stack(self._divergences)
        return {
            "positions": len(divergence),
            "kl_mean": float(f"{divergence.mean():.3g}"),
            "kl_max": float(f"{divergence.max():.3g}"),
            "top1": round(float(torch.stack(self._same).double().mean()), 5),
        }


def answer(model: GptOssForCausalLM, prompt: list[int]) -> list[int]:
    """The tokens that follow a prompt at temperature 0."""
    sequence = Sequence1(model, len(prompt) + ANSWER, model.dtype)
    tokens: list[int] = []
    logits = sequence.feed(prompt)
    while True:
        tokens.append(int(logits[-1].argmax()))
        if len(tokens) == ANSWER or tokens[-1] in model.config.eos_token_ids:
            return tokens
        logits = sequence.feed(tokens[-1:])


def demo_texts(model: GptOssForCausalLM) -> list[tuple[list[int], int]]:
    """Tokens of conversations, and how many of them are the prompt."""
    tokenizer = Tokenizer()
    prompts = [render_prompt(Turn(items=(UserMessage(q),)), tokenizer) for q in QUESTIONS]
    return [(prompt + answer(model, prompt), len(prompt)) for prompt in prompts]


def random_texts(model: GptOssForCausalLM, tokens: int) -> list[tuple[list[int], int]]:
    """One text of random tokens, the first quarter of which is not looked at."""
    make = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.vocab_size, (tokens,), generator=make).tolist()
    return [(ids, tokens // 4)]


def compare(
    source: ModelSource,
    make_texts: Callable[[GptOssForCausalLM], list[tuple[list[int], int]]],
    threads: int | None,
    reference: Path = REFERENCE,
) -> dict[str, dict[str, float]]:
    """Every path beside the reference."""
    networks = Networks(source, threads)
    model = networks.build(reference)
    texts = make_texts(model)

    def logits(path: Path) -> Iterator[Tensor]:
        for ids, start in texts:
            yield Sequence1(model, len(ids), path.cache).feed(ids)[start - 1 : -1]

    truth = list(logits(reference))
    table = {}
    for path in paths():
        if path == reference:
            continue
        print(f"{source.name}: {path.name}", file=sys.stderr)
        del model
        model = networks.build(path)
        loss = Loss()
        for expected, found in zip(truth, logits(path), strict=True):
            loss.add(expected, found)
        table[path.name] = loss.figures()
    return table


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--layers", type=int, nargs="*", default=[2, 24], help="of random models of 20b geometry"
    )
    parser.add_argument("--tokens", type=int, default=256, help="of the random text")
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    demo = resolve_model("demo")
    unfit = unfit_reason(CPU, demo.config)
    if unfit is not None:
        raise SystemExit(unfit)
    result = {"demo model": compare(demo, demo_texts, args.threads)}
    large = resolve_model("gpt-oss-20b", load_format="dummy")
    for layers in args.layers:
        config = replace(large.config, num_layers=layers, layer_types=())
        result[f"random 20b, {layers} layers"] = compare(
            replace(large, config=config),
            lambda model: random_texts(model, args.tokens),
            args.threads,
            REFERENCE if layers <= MOST_LAYERS_IN_FLOAT32 else EXACT,
        )
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
