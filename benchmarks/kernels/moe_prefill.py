"""Times the experts of prompts in the geometry of gpt-oss-20b.

    python -m benchmarks.kernels.moe_prefill [--quick]

Prints a line of JSON for each configuration, the expected best first. Routing is random, so experts
get about, not exactly, the same number of rows. Layers with weights of their own take turns. The
floor is the larger of the arithmetic at 800 TFLOP/s and the weights at 3.0 TB/s. `--quick` tries
only the default configurations. Long runs make the chip slow down, so compare neighbours.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.kernels.moe.cuda_prefill import (
    DEFAULT,
    FEW,
    PrefillConfig,
    default_config,
    experts_many,
    gate_up_many,
    prefill_kernels,
    prefill_rows_a_tile,
)
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.router.groups import Groups, group

LAYERS, EXPERTS, HIDDEN, INTERMEDIATE, K = 4, 32, 2880, 2880, 4
ALPHA, LIMIT = 1.702, 7.0
TOKENS = (640, 768, 1024, 1536, 2048, 4096, 8000, 8192)
OPERATIONS_PER_US = 800e6
BYTES_PER_US = 3.0e6
REPEATS = 5
GATHERED = replace(DEFAULT, cluster=1, placed=False)  # without a copy of the rows of x
# Tokens, and what to try beside the defaults.
ALTERNATIVES = (
    (640, replace(FEW, depth=2)),
    (640, replace(FEW, cluster=1)),
    (640, replace(FEW, cluster=1, placed=False)),
    (640, replace(FEW, stagger=1)),
    (640, GATHERED),
    (1024, replace(FEW, cluster=1)),
    (1024, DEFAULT),
    (1024, GATHERED),
    (2048, DEFAULT),
    (2048, FEW),
    (4096, FEW),
    (8000, FEW),
    (8000, replace(DEFAULT, depth=2)),
    (8000, replace(DEFAULT, cluster=1)),
    (8000, GATHERED),
    (8000, DEFAULT),
    (8000, replace(DEFAULT, stagger=1)),
    (8000, replace(DEFAULT, stagger=2)),
    (8000, replace(DEFAULT, stages=5)),
)


def random_experts() -> HopperExperts:
    """Random codes are random in any layout, so nothing is repacked."""

    def matrix(rows: int, columns: int) -> tuple[Tensor, Tensor]:
        shape = (EXPERTS, rows // 16, columns // 64)
        blocks = torch.randint(0, 256, (*shape, 32, 16), dtype=torch.uint8, device="cuda")
        scales = torch.randint(119, 121, (*shape, 8, 4), dtype=torch.uint8, device="cuda")
        return blocks, scales

    gate_up, gate_up_scales = matrix(2 * INTERMEDIATE, HIDDEN)
    down, down_scales = matrix(HIDDEN, INTERMEDIATE)
    return HopperExperts(
        gate_up_blocks=gate_up,
        gate_up_scales=gate_up_scales,
        gate_up_bias=torch.randn(EXPERTS, 2 * INTERMEDIATE, device="cuda").bfloat16(),
        gate_up_gain=1.0,
        down_blocks=down,
        down_scales=down_scales,
        down_bias=torch.randn(EXPERTS, HIDDEN, device="cuda").bfloat16(),
        down_gain=1.0,
    )


def floor_us(tokens: int, matrices: int) -> float:
    """For one layer; `matrices` is 3, or 2 for gate and up alone."""
    values = matrices * HIDDEN * INTERMEDIATE
    arithmetic = 2 * tokens * K * values / OPERATIONS_PER_US
    return max(arithmetic, EXPERTS * values * 4.25 / 8 / BYTES_PER_US)


def measure(layers: list[HopperExperts], tokens: int, config: PrefillConfig) -> None:
    x = torch.randn(tokens, HIDDEN, device="cuda").bfloat16()
    chosen = torch.rand(tokens, EXPERTS, device="cuda").topk(K).indices.int()
    groups = group(chosen, EXPERTS, config.rows)
    prefill_kernels(HIDDEN, INTERMEDIATE, K, config, torch.cuda.current_device())
    parts: list[tuple[str, int, Callable[..., Tensor]]] = [
        ("experts_many", 3, experts_many),
        ("experts_many, gate and up alone", 2, gate_up_many),
    ]
    for name, matrices, run in parts:
        us = graph_microseconds(
            lambda run=run: replay(run, layers, x, groups, config), per=LAYERS, repeats=REPEATS
        )
        report(name, tokens, str(config), us, floor_us(tokens, matrices))


def replay(
    run: Callable[..., Tensor],
    layers: list[HopperExperts],
    x: Tensor,
    groups: Groups,
    config: PrefillConfig,
) -> None:
    for layer in layers:
        run(x, groups, layer, ALPHA, LIMIT, config=config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the default configurations")
    quick = parser.parse_args().quick
    layers = [random_experts() for _ in range(LAYERS)]
    cases = [
        (tokens, default_config(prefill_rows_a_tile(tokens * K, EXPERTS))) for tokens in TOKENS
    ]
    if not quick:
        cases += ALTERNATIVES
    for tokens, config in cases:
        try:
            measure(layers, tokens, config)
        except Exception as error:  # the next configuration may still work
            report_error("experts_many", tokens, str(config), error)


if __name__ == "__main__":
    main()
