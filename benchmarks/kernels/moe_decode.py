"""Times the experts of a decoding step on a Hopper GPU, in the geometry of gpt-oss-20b.

    python -m benchmarks.kernels.moe_decode [--quick]

A line for each number of tokens and launch shape; both launches together. The floor is the packed
weights of the experts in use at 3.0 TB/s. Routing is uniform at random, drawn anew for each layer.
"""

from __future__ import annotations

import sys
import time
from dataclasses import astuple

import torch
from torch import Tensor

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.kernels.moe.cuda_decode import (
    FewConfig,
    OneConfig,
    experts_few,
    experts_one,
    few_config,
    rows_a_tile,
)
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.router.groups import group

LAYERS, EXPERTS, HIDDEN, INTERMEDIATE, K = 6, 32, 2880, 2880, 4
ALPHA, LIMIT = 1.702, 7.0
BYTES_AN_EXPERT = 3 * HIDDEN * INTERMEDIATE * 17 / 32
BYTES_A_MICROSECOND = 3.0e6
LATEST = 50.0  # seconds after which no further configuration is tried

ONE = (
    OneConfig(),
    OneConfig(5, 5, 5, 5, 1),
    OneConfig(5, 9, 5, 9, 4),
    OneConfig(3, 8, 3, 8, 1),
    OneConfig(9, 5, 5, 9, 2),
)
FEW = {
    8: (
        FewConfig(8, 4, 3, 1, 9, 4),
        FewConfig(8, 8, 1, 1, 9, 4),
        FewConfig(8, 4, 2, 1, 5, 6, 2),
        FewConfig(8, 12, 1, 1, 5, 5),
    ),
    16: (
        FewConfig(16, 4, 3, 1, 9, 4),
        FewConfig(16, 4, 2, 1, 5, 4, 2),
        FewConfig(16, 12, 1, 1, 5, 4),
    ),
    32: (
        FewConfig(32, 8, 1, 2, 3, 5),
        FewConfig(32, 4, 2, 2, 5, 4),
        FewConfig(32, 4, 3, 2, 3, 6),
    ),
    64: (
        FewConfig(64, 4, 1, 2, 3, 5),
        FewConfig(64, 8, 1, 1, 3, 5),
        FewConfig(64, 4, 2, 2, 3, 4),
    ),
}


def random_layer() -> HopperExperts:
    """Any bytes are valid weights."""

    def nibbles(rows: int, columns: int) -> Tensor:
        shape = (EXPERTS, rows // 16, columns // 64, 32, 16)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")

    def scales(rows: int, columns: int) -> Tensor:
        shape = (EXPERTS, rows // 16, columns // 64, 8, 4)
        return torch.randint(118, 120, shape, dtype=torch.uint8, device="cuda")

    def bias(size: int) -> Tensor:
        return torch.randn(EXPERTS, size, dtype=torch.bfloat16, device="cuda")

    return HopperExperts(
        nibbles(2 * INTERMEDIATE, HIDDEN),
        scales(2 * INTERMEDIATE, HIDDEN),
        bias(2 * INTERMEDIATE),
        1.0,
        nibbles(HIDDEN, INTERMEDIATE),
        scales(HIDDEN, INTERMEDIATE),
        bias(HIDDEN),
        1.0,
    )


def time_one(layers: list[HopperExperts], config: OneConfig, repeats: int) -> None:
    x = torch.randn(1, HIDDEN, device="cuda").bfloat16()
    normed = torch.randn(1, HIDDEN, device="cuda").bfloat16()
    logits = torch.randn(len(layers), EXPERTS, device="cuda")
    floor = K * BYTES_AN_EXPERT / BYTES_A_MICROSECOND
    try:
        us = graph_microseconds(
            lambda: [
                experts_one(x, normed, logits[i], layer, K, ALPHA, LIMIT, config=config)
                for i, layer in enumerate(layers)
            ],
            per=len(layers),
            repeats=repeats,
        )
        report("experts_one", 1, astuple(config), us, floor)
    except Exception as error:
        report_error("experts_one", 1, astuple(config), error)


def time_few(layers: list[HopperExperts], tokens: int, config: FewConfig, repeats: int) -> None:
    try:
        normed = torch.randn(tokens, HIDDEN, device="cuda").bfloat16()
        chosen = [
            torch.rand(tokens, EXPERTS, device="cuda").topk(K, dim=-1).indices.int() for _ in layers
        ]
        in_use = sum(len(one.unique()) for one in chosen) / len(layers)
        groups = [group(one, EXPERTS, config.rows_a_tile) for one in chosen]
        us = graph_microseconds(
            lambda: [
                experts_few(normed, plan, layer, ALPHA, LIMIT, config=config)
                for plan, layer in zip(groups, layers, strict=True)
            ],
            per=len(layers),
            repeats=repeats,
        )
        floor = in_use * BYTES_AN_EXPERT / BYTES_A_MICROSECOND
        report("experts_few", tokens, astuple(config), us, floor)
    except Exception as error:
        report_error("experts_few", tokens, astuple(config), error)


def main() -> None:
    begin = time.monotonic()
    quick = "--quick" in sys.argv
    torch.manual_seed(0)
    layers = [random_layer() for _ in range(LAYERS)]
    repeats = 5 if quick else 15
    for one in ONE[:1] if quick else ONE:
        time_one(layers, one, repeats)
    sizes = (8, 32, 128) if quick else (2, 8, 16, 32, 64, 128, 256, 512)
    for tokens in sizes:  # the shapes in use first
        rows = rows_a_tile(tokens, K, EXPERTS)
        time_few(layers, tokens, few_config(rows, HIDDEN, INTERMEDIATE), repeats)
    for tokens in () if quick else (8, 32, 128, 256, 64):
        for few in FEW[rows_a_tile(tokens, K, EXPERTS)]:
            if time.monotonic() - begin < LATEST:
                time_few(layers, tokens, few, repeats)


if __name__ == "__main__":
    main()
