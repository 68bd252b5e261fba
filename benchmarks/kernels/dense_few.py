"""Times the kernels around the experts for two and more tokens, beside the library's products.

    python -m benchmarks.kernels.dense_few [--quick] [--only NAME] [--seconds 60]

Prints a line of JSON for each configuration, the expected best first; what does not fit the time
is left out, and named in the last line. Every layer has weights of its own, so that they come from
memory. The floor is the bytes to move at 3.0 TB/s, or the operations at 700 TFLOP/s if that is
more. `--quick` tries the defaults and the library only. `route.py` has the router.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.kernels.attention_out import triton_few as out_few
from ossia.kernels.attention_out.fused_many import project_out_library
from ossia.kernels.linear.triton_few import FewShape
from ossia.kernels.lm_head.fused_many import logits_library
from ossia.kernels.lm_head.triton_few import default_shape as head_shape
from ossia.kernels.lm_head.triton_few import logits_few
from ossia.kernels.qkv import triton_few as qkv_few
from ossia.kernels.qkv.fused_many import project_normed_library
from ossia.kernels.rms_norm.triton_norm import rms_norm
from ossia.kernels.router.triton_combine import combine
from ossia.kernels.router.triton_few import route_and_group, route_and_group_triton
from ossia.kernels.router.triton_groups import group
from ossia.kernels.router.triton_many import RouteShape, route_many
from ossia.kernels.router.triton_many import default_shape as route_many_shape
from ossia.model.batch import LayerCache

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 12, 2880, 64, 8, 64, 201_088
QKV_ROWS, MIXED = (HEADS + 2 * KV_HEADS) * HEAD_DIM, HEADS * HEAD_DIM
EXPERTS, K, EPS = 32, 4, 1e-5
BYTES_PER_US, FLOP_PER_US = 3.0e6, 700e6
REPEATS = 10
FEW = (8, 32, 64, 128)  # tokens at which configurations are tried; all sizes with the best
SIZES = (2, 8, 32, 64, 128, 256)
MANY = 8192

QKV = [
    FewShape(64, 16, 128, 4, splits=3, tma=True, ahead=2),
    FewShape(64, 16, 128, 5, splits=2, tma=True, ahead=2),
    FewShape(64, 16, 128, 4, splits=2, tma=True),
    FewShape(128, 16, 128, 3, splits=3, tma=True, ahead=2),
    FewShape(128, 16, 64, 6, splits=3, tma=True, ahead=4),
    FewShape(64, 16, 64, 8, splits=3, tma=True, ahead=4),
    FewShape(64, 32, 128, 4, splits=2, tma=True, ahead=2),
    FewShape(64, 32, 128, 4, splits=3, tma=True, ahead=2),
    FewShape(64, 32, 128, 3, splits=3, tma=True, ahead=2),
    FewShape(128, 32, 64, 6, splits=3, tma=True, ahead=4),
    FewShape(128, 32, 128, 3, splits=3, tma=True, ahead=2),
    FewShape(64, 64, 64, 5, splits=3, tma=True, ahead=4),
    FewShape(64, 64, 128, 3, splits=2, tma=True, ahead=2),
    FewShape(128, 64, 64, 5, splits=3, tma=True, ahead=4),
    FewShape(128, 64, 128, 3, 8, splits=3, tma=True, ahead=2),
    FewShape(128, 128, 64, 4, 8, splits=3, tma=True, ahead=4),
    FewShape(64, 128, 64, 4, 4, splits=3, tma=True, ahead=4),
]
OUT = [
    FewShape(64, 16, 128, 4, splits=4, tma=True, ahead=2),
    FewShape(64, 16, 128, 5, splits=3, tma=True, ahead=2),
    FewShape(64, 16, 128, 4, splits=6, tma=True, ahead=2),
    FewShape(64, 16, 64, 8, splits=3, tma=True, ahead=4),
    FewShape(64, 16, 64, 8, splits=4, tma=True),
    FewShape(64, 32, 128, 4, splits=4, tma=True, ahead=2),
    FewShape(64, 32, 128, 3, splits=4, tma=True, ahead=2),
    FewShape(64, 32, 128, 3, splits=6, tma=True, ahead=2),
    FewShape(64, 32, 128, 4, splits=3, tma=True, ahead=2),
    FewShape(64, 32, 64, 8, splits=3, tma=True, ahead=4),
    FewShape(64, 64, 128, 3, splits=4, tma=True, ahead=2),
    FewShape(64, 64, 128, 4, splits=3, tma=True, ahead=2),
    FewShape(64, 64, 64, 6, splits=3, tma=True, ahead=4),
    FewShape(64, 128, 64, 4, 4, splits=4, tma=True, ahead=4),
    FewShape(64, 128, 128, 3, 8, splits=3, tma=True, ahead=2),
]
HEAD = [
    FewShape(64, 16, 128, 5, tma=True),
    FewShape(128, 16, 64, 8, warps=8, tma=True),
    FewShape(64, 32, 64, 8, tma=True),
    FewShape(128, 64, 64, 7, warps=8, tma=True),
    FewShape(128, 64, 128, 4, warps=8, tma=True),
    FewShape(128, 128, 64, 5, warps=8, tma=True),
]


@dataclass(frozen=True, slots=True)
class Case:
    """One configuration at one size. `work` runs one layer."""

    kernel: str
    tokens: int
    config: dict[str, Any]
    work: Callable[[int], object]
    floor_us: float
    layers: int = LAYERS


class Weights:
    """Random weights of some layers and what a step needs besides, for up to MANY tokens."""

    def __init__(self) -> None:
        self.norm = random(LAYERS, HIDDEN)
        self.qkv, self.qkv_bias = random(LAYERS, QKV_ROWS, HIDDEN), random(LAYERS, QKV_ROWS)
        self.out, self.out_bias = random(LAYERS, HIDDEN, MIXED), random(LAYERS, HIDDEN)
        self.router, self.router_bias = random(LAYERS, EXPERTS, HIDDEN), random(LAYERS, EXPERTS)
        self.head = random(VOCAB, HIDDEN)
        cache = random(2, MANY // 16, 16, KV_HEADS, HEAD_DIM)
        self.cache = LayerCache(cache[0], cache[1])
        angles = torch.rand(MANY, HEAD_DIM // 2, device="cuda") * 6
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
        self.positions = torch.randperm(MANY, device="cuda")
        self.slots = torch.randperm(MANY, device="cuda")
        self.x = random(MANY, HIDDEN) * 50
        self.mixed = random(MANY, MIXED) * 50
        self.y = random(MANY * K, HIDDEN)
        self.shares = torch.rand(MANY, K, device="cuda").softmax(-1)
        self.chosen = torch.rand(MANY, EXPERTS, device="cuda").topk(K).indices.int()

    def qkv_work(self, tokens: int, run: Callable[..., Tensor], **options: Any):  # type: ignore[no-untyped-def]
        x, step = self.x[:tokens], (self.positions[:tokens], self.slots[:tokens], self.cos_sin)
        return lambda i: run(x, self.qkv[i], self.qkv_bias[i], *step, self.cache, **options)

    def out_work(self, tokens: int, run: Callable[..., Tensor], **options: Any):  # type: ignore[no-untyped-def]
        x, mixed = self.x[:tokens], self.mixed[:tokens]
        return lambda i: run(x, mixed, self.out[i], self.out_bias[i], **options)

    def router_of(self, layer: int) -> tuple[Tensor, Tensor, Tensor, float, int]:
        return self.norm[layer], self.router[layer], self.router_bias[layer], EPS, K


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).mul_(0.02)


def floor(*, read: float, flop: float = 0.0) -> float:
    return max(read / BYTES_PER_US, flop / FLOP_PER_US)


def fits(shape: FewShape, tokens: int) -> bool:
    """Whether a shape is worth trying: a tile has room for all tokens."""
    return min(tokens, 128) <= shape.tokens <= max(16, tokens)


def dense_cases(w: Weights, pdl: bool, quick: bool) -> Iterator[Case]:
    """The projections: defaults and library at all sizes, then the other configurations."""

    def qkv(tokens: int, name: str, config: dict[str, Any], run: Any, **options: Any) -> Case:
        moved = 2 * (w.qkv[0].numel() + tokens * (HIDDEN + QKV_ROWS))
        us = floor(read=moved, flop=2 * tokens * w.qkv[0].numel())
        return Case(name, tokens, config, w.qkv_work(tokens, run, pdl=pdl, **options), us)

    def out(tokens: int, name: str, config: dict[str, Any], run: Any, **options: Any) -> Case:
        moved = 2 * (w.out[0].numel() + tokens * (2 * HIDDEN + MIXED))
        us = floor(read=moved, flop=2 * tokens * w.out[0].numel())
        return Case(name, tokens, config, w.out_work(tokens, run, **options), us)

    few_qkv, few_out = qkv_few.project_normed_few, out_few.project_out_few
    for tokens in SIZES:
        shape = qkv_few.default_shape(tokens)
        yield qkv(tokens, "qkv_few", asdict(shape), few_qkv, shape=shape)
        yield qkv(tokens, "qkv_many", {"library": True}, project_normed_library)
        shape = out_few.default_shape(tokens)
        yield out(tokens, "out_few", asdict(shape), few_out, shape=shape, pdl=pdl)
        yield out(tokens, "out_many", {"library": True}, project_out_library)
        yield out(tokens, "out_many", {"library": True, "pdl": pdl}, project_out_library, pdl=pdl)
    yield qkv(MANY, "qkv_many", {"library": True}, project_normed_library)
    yield out(MANY, "out_many", {"library": True}, project_out_library)
    for tokens in () if quick else FEW:
        for shape in QKV:
            if fits(shape, tokens):
                yield qkv(tokens, "qkv_few", asdict(shape), few_qkv, shape=shape)
        for shape in OUT:
            if fits(shape, tokens):
                yield out(tokens, "out_few", asdict(shape), few_out, shape=shape, pdl=pdl)


def row_cases(w: Weights, pdl: bool, quick: bool) -> Iterator[Case]:
    """Norm, routing, grouping and the mixture's sum."""
    row = 2 * HIDDEN
    for n in (*SIZES, MANY):
        x, y, shares, chosen = w.x[:n], w.y[: n * K], w.shares[:n], w.chosen[:n]
        tile = 128 if n > 512 else 16
        route_floor = floor(read=2 * n * row + EXPERTS * row)

        def norm(i: int, x: Tensor = x) -> object:
            return rms_norm(x, w.norm[i], EPS, pdl=pdl)

        def both(i: int, x: Tensor = x, tile: int = tile) -> object:
            return route_and_group(x, *w.router_of(i), tile, pdl=pdl)

        def triton(i: int, x: Tensor = x, tile: int = tile) -> object:
            return route_and_group_triton(x, *w.router_of(i), tile, pdl=pdl)

        def sort(i: int, chosen: Tensor = chosen, tile: int = tile) -> object:
            return group(chosen, EXPERTS, tile, pdl=pdl)

        def mix(i: int, x: Tensor = x, y: Tensor = y, shares: Tensor = shares) -> object:
            return combine(x, y, shares, w.norm[i], EPS, pdl=pdl)

        yield Case("rms_norm", n, {}, norm, floor(read=2 * n * row))
        yield Case("route_and_group", n, {}, both, route_floor)
        yield Case("route_and_group", n, {"triton": True}, triton, route_floor)
        yield Case("group", n, {}, sort, floor(read=8 * n * K))
        yield Case("combine_and_norm", n, {}, mix, floor(read=(K + 3) * n * row))
        if n > 64:
            shape = route_many_shape(n)

            def many(i: int, x: Tensor = x, shape: RouteShape = shape) -> object:
                return route_many(x, *w.router_of(i), shape=shape, pdl=pdl)

            yield Case("route_many", n, asdict(shape), many, route_floor)
    if quick:
        return
    for block in ((1024, 4), (2048, 8), (8192, 16)):
        for n in (256, MANY):
            chosen = w.chosen[:n]

            def blocks(i: int, chosen: Tensor = chosen, block: tuple[int, int] = block) -> object:
                return group(chosen, EXPERTS, 16, block=block, pdl=pdl)

            yield Case("group", n, {"block": block}, blocks, floor(read=8 * n * K))


def head_cases(w: Weights, pdl: bool, quick: bool) -> Iterator[Case]:
    """The head with its norm; one layer, because it is larger than any cache."""
    moved = 2 * w.head.numel()

    def few(tokens: int, shape: FewShape) -> Case:
        def work(i: int) -> object:
            return logits_few(w.x[:tokens], w.norm[0], EPS, w.head, shape=shape, pdl=pdl)

        us = floor(read=moved + 4 * tokens * VOCAB)
        return Case("logits_few", tokens, asdict(shape), work, us, 1)

    for tokens in (2, 8, 16, 32, 64, 128, 256):

        def library(i: int, tokens: int = tokens) -> object:
            return logits_library(w.x[:tokens], w.norm[0], EPS, w.head, pdl=pdl)

        us = floor(read=moved + 4 * tokens * VOCAB, flop=2 * tokens * w.head.numel())
        yield Case("logits_library", tokens, {"library": True}, library, us, 1)
        if tokens <= 128:
            yield few(tokens, head_shape(tokens))
    for shape in () if quick else HEAD:
        yield few(shape.tokens, shape)


def few_cases(w: Weights, pdl: bool, quick: bool) -> list[Case]:
    """Everything else, the defaults of all kernels before the first other configuration."""
    first = [*dense_cases(w, pdl, True), *row_cases(w, pdl, True), *head_cases(w, pdl, True)]
    if quick:
        return first
    seen = {(c.kernel, c.tokens, str(c.config)) for c in first}
    rest = [*dense_cases(w, pdl, False), *head_cases(w, pdl, False), *row_cases(w, pdl, False)]
    return first + [c for c in rest if (c.kernel, c.tokens, str(c.config)) not in seen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the defaults and the library")
    parser.add_argument("--only", default="", help="kernels whose names contain this")
    parser.add_argument("--seconds", type=float, default=60, help="stop after this long")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    pdl = torch.cuda.get_device_capability()[0] >= 9
    w = Weights()
    run_cases([c for c in few_cases(w, pdl, options.quick) if options.only in c.kernel], end)


def run_cases(cases: list[Case], end: float) -> None:
    """Time and report one after another, as long as `time.monotonic()` is before `end`."""
    done = 0
    for case in cases:
        if time.monotonic() > end:
            break
        done += 1
        try:
            us = graph_microseconds(
                lambda case=case: [case.work(i) for i in range(case.layers)],
                per=case.layers,
                repeats=REPEATS,
            )
        except Exception as error:
            report_error(case.kernel, case.tokens, case.config, error)
        else:
            report(case.kernel, case.tokens, case.config, us, case.floor_us)
    print(json.dumps({"left_out": len(cases) - done}), flush=True)


if __name__ == "__main__":
    main()
