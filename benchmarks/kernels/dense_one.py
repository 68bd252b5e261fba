"""Times the dense kernels of one token: QKV, output projection, router, head, and their chain.

    python -m benchmarks.kernels.dense_one [--quick]

Prints a line of JSON for each configuration, the expected best first. Every layer has weights of
its own, but the routers of all layers fit the L2 together: only the chain shows them cold. The
floor is the weights' bytes at 3.0 TB/s. `--quick` tries only the defaults.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.kernels.attention_out import triton_one as out_kernel
from ossia.kernels.attention_out.triton_one import project_out_one
from ossia.kernels.linear.triton_one import MatVecShape
from ossia.kernels.lm_head import triton_one as head_kernel
from ossia.kernels.lm_head.triton_one import logits_one
from ossia.kernels.qkv import triton_one as qkv_kernel
from ossia.kernels.qkv.triton_one import project_qkv_one
from ossia.kernels.router.triton_one import DEFAULT_WARPS, route_one
from ossia.model.batch import LayerCache

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 24, 2880, 64, 8, 64, 201_088
EPS = 1e-5
BYTES_PER_US = 3.0e6
REPEATS = 10
QKV = [(4, 4096, 4), (2, 1024, 4), (2, 512, 2), (2, 256, 1), (4, 2048, 8)]
OUT = [(4, 1024, 4), (2, 1024, 4), (2, 512, 2), (4, 2048, 8)]
ROUTER = [4, 16]
HEAD = [(4, 1024, 4), (16, 2048, 8), (4, 512, 2)]


class Weights:
    """Random weights of all layers and what a step of one token needs besides."""

    def __init__(self) -> None:
        rows = (HEADS + 2 * KV_HEADS) * HEAD_DIM
        self.norm = random(LAYERS, HIDDEN)
        self.qkv, self.qkv_bias = random(LAYERS, rows, HIDDEN), random(LAYERS, rows)
        self.out = random(LAYERS, HIDDEN, HEADS * HEAD_DIM)
        self.out_bias = random(LAYERS, HIDDEN)
        self.router = {e: random(LAYERS, e, HIDDEN) for e in (32, 128)}
        self.router_bias = {e: random(LAYERS, e) for e in (32, 128)}
        self.head = random(VOCAB, HIDDEN)
        cache = random(2, LAYERS, 64, 16, KV_HEADS, HEAD_DIM)
        self.caches = [LayerCache(cache[0, i], cache[1, i]) for i in range(LAYERS)]
        angles = torch.rand(4096, HEAD_DIM // 2, device="cuda") * 6
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
        self.position = torch.tensor([1000], device="cuda")
        self.slot = torch.tensor([500], device="cuda")
        self.x = random(1, HIDDEN) * 50
        self.mixed = random(1, HEADS * HEAD_DIM) * 50

    def project_qkv(self, layer: int, x: Tensor, **options: Any) -> Tensor:
        weights = (self.norm[layer], self.qkv[layer], self.qkv_bias[layer])
        step = (self.position, self.slot, self.cos_sin, self.caches[layer])
        return project_qkv_one(x, *weights, EPS, *step, **options)

    def project_out(self, layer: int, x: Tensor, mixed: Tensor, **options: Any) -> Tensor:
        return project_out_one(x, mixed, self.out[layer], self.out_bias[layer], **options)

    def route(self, layer: int, x: Tensor, experts: int, **options: Any) -> tuple[Tensor, Tensor]:
        weights = (self.norm[layer], self.router[experts][layer], self.router_bias[experts][layer])
        return route_one(x, *weights, EPS, **options)

    def logits(self, x: Tensor, **options: Any) -> Tensor:
        return logits_one(x, self.norm[0], EPS, self.head, **options)

    def chain(self, pdl: bool) -> list[Tensor]:
        """A token through all dense kernels; attention and experts are left out."""
        x, kept = self.x, []
        for layer in range(LAYERS):
            q = self.project_qkv(layer, x, pdl=pdl)
            x = self.project_out(layer, x, q, pdl=pdl)
            kept += self.route(layer, x, 32, pdl=pdl)
        return [*kept, self.logits(x, pdl=pdl)]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16).mul_(0.02)


def try_one(
    kernel: str, config: dict[str, Any], work: Callable[[], object], per: int, bytes_each: int
) -> None:
    """Time one configuration, or say why it cannot run."""
    try:
        us = graph_microseconds(work, per=per, repeats=REPEATS)
    except Exception as error:
        report_error(kernel, 1, config, error)
    else:
        report(kernel, 1, config, us, bytes_each / BYTES_PER_US)


def shapes(
    default: MatVecShape, others: list[tuple[int, int, int]], quick: bool
) -> Iterable[tuple[dict[str, Any], MatVecShape]]:
    """Configurations to try, as they are printed and as they are run."""
    for shape in [default] if quick else [default, *(MatVecShape(*other) for other in others)]:
        yield {"rows": shape.rows, "piece": shape.piece, "warps": shape.warps}, shape


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the defaults")
    quick = parser.parse_args().quick
    w = Weights()
    size = w.head.element_size()
    layers = range(LAYERS)
    dependent = torch.cuda.get_device_capability()[0] >= 9
    launches = (True, False) if dependent else (False,)

    dense = w.qkv[0].numel() + w.out[0].numel() + w.router[32][0].numel()
    step_bytes = (dense * LAYERS + w.head.numel()) * size
    for pdl in launches:
        try_one("dense_chain", {"pdl": pdl}, lambda pdl=pdl: w.chain(pdl), 1, step_bytes)
    for name, shape in shapes(qkv_kernel.DEFAULT, QKV, quick):
        for pdl in launches:
            options: dict[str, Any] = {"shape": shape, "pdl": pdl}
            try_one(
                "project_qkv_one",
                {**name, "pdl": pdl},
                lambda options=options: [w.project_qkv(i, w.x, **options) for i in layers],
                LAYERS,
                w.qkv[0].numel() * size,
            )
    for name, shape in shapes(out_kernel.DEFAULT, OUT, quick):
        for pdl in launches:
            options = {"shape": shape, "pdl": pdl}
            try_one(
                "project_out_one",
                {**name, "pdl": pdl},
                lambda options=options: [w.project_out(i, w.x, w.mixed, **options) for i in layers],
                LAYERS,
                w.out[0].numel() * size,
            )
    for experts in (32,) if quick else (32, 128):
        for warps in [DEFAULT_WARPS] if quick else [DEFAULT_WARPS, *ROUTER]:
            for pdl in launches:
                options = {"experts": experts, "warps": warps, "pdl": pdl}
                try_one(
                    "route_one",
                    options,
                    lambda options=options: [w.route(i, w.x, **options) for i in layers],
                    LAYERS,
                    w.router[experts][0].numel() * size,
                )
    for name, shape in shapes(head_kernel.DEFAULT, HEAD, quick):
        for pdl in launches:
            options = {"shape": shape, "pdl": pdl}
            try_one(
                "logits_one",
                {**name, "pdl": pdl},
                lambda options=options: w.logits(w.x, **options),
                1,
                w.head.numel() * size,
            )


if __name__ == "__main__":
    main()
