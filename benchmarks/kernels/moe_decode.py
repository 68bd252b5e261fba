"""Times the experts of a decoding step on a Hopper GPU, in the geometry of gpt-oss-20b.

    python -m benchmarks.kernels.moe_decode [--quick] [--only mid] [--experts 128] [--skew 1.0]

A line for each number of tokens and launch shape; both launches together. `experts_mid` from 64
tokens on stands beside `experts_few`, and beside `experts_many` from 384 on; `--only mid` times
these three alone, with every launch shape of `experts_mid`. The floor is the packed weights of the
experts in use at 3.0 TB/s. Routing is drawn anew for each layer, the same for all launch shapes:
uniform, or with --skew the standard deviation of the experts' popularity beside that of a token's
taste; `experts_mid` is timed with both. With 128 experts (gpt-oss-120b) only the shapes in use are
timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
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
from ossia.kernels.moe.cuda_decode_mid import (
    MidConfig,
    experts_mid,
    mid_config,
    mid_rows_a_tile,
)
from ossia.kernels.moe.cuda_prefill import default_config, experts_many, prefill_rows_a_tile
from ossia.kernels.moe.hopper_layout import HopperExperts
from ossia.kernels.router.groups import Groups, group

HIDDEN, INTERMEDIATE, K = 2880, 2880, 4
PACKED_EXPERTS = 192  # of all layers together: 2.5 GB
ALPHA, LIMIT = 1.702, 7.0
BYTES_AN_EXPERT = 3 * HIDDEN * INTERMEDIATE * 17 / 32
BYTES_A_MICROSECOND = 3.0e6
LATEST = 50.0  # seconds after which no further configuration is tried

ONE = (
    OneConfig(),
    OneConfig(9, 5, 5, 9, 2, 5),
    OneConfig(9, 5, 5, 9, 2, 6),
    OneConfig(9, 5, 3, 8, 2),
    OneConfig(9, 5, 9, 5, 4),
    OneConfig(9, 5, 5, 9, 4),
    OneConfig(15, 3, 5, 9, 2),
    OneConfig(5, 5, 5, 9, 2),
)
FEW = {  # beside the default, by tokens
    2: (FewConfig(8, 4, 2, 1, 5, 6, 2),),
    8: (FewConfig(8, 4, 2, 1, 5, 6, 2), FewConfig(8, 8, 1, 1, 9, 4)),
    32: (FewConfig(16, 8, 2, 1, 5, 6), FewConfig(8, 8, 1, 1, 5, 6)),
    64: (
        FewConfig(16, 8, 1, 1, 5, 6),
        FewConfig(24, 8, 1, 1, 5, 6),
        FewConfig(32, 16, 1, 1, 3, 5),
        FewConfig(32, 8, 1, 2, 3, 5),
    ),
    128: (
        FewConfig(32, 16, 1, 1, 3, 5),
        FewConfig(32, 8, 2, 1, 5, 4),
        FewConfig(32, 8, 1, 2, 3, 5),
        FewConfig(24, 16, 1, 1, 3, 5),
    ),
    192: (FewConfig(48, 8, 1, 2, 3, 5),),
    256: (
        FewConfig(48, 8, 1, 2, 3, 5),
        FewConfig(48, 16, 1, 1, 3, 5),
        FewConfig(48, 12, 1, 2, 3, 3),
        FewConfig(48, 8, 1, 1, 5, 4),
    ),
    512: (FewConfig(64, 12, 1, 2, 3, 3), FewConfig(64, 16, 1, 1, 3, 4)),
}

MID_TOKENS = (64, 96, 128, 192, 256, 384, 512)
MANY_TOKENS = 384  # from here on beside the kernels of prompts
SKEW = 0.45  # of the second pass over `experts_mid`: some expert gets 95 of 1,024 pairs, on average
SKEWED_TOKENS = (128, 256, 512)
MID = {  # beside the default, by tokens and skew, the most promising first
    (256, 0.0): (MidConfig(48, 4, 1, 3, 5), MidConfig(96, 3, 1, 3, 3)),
    (256, SKEW): (
        MidConfig(48, 4, 1, 3, 5),
        MidConfig(64, 4, 1, 3, 4, 1, 64),
        MidConfig(96, 3, 1, 3, 3),
        MidConfig(128, 2, 2, 3, 2),
    ),
    (128, 0.0): (MidConfig(32, 4, 1, 3, 5),),
    (128, SKEW): (MidConfig(32, 4, 1, 3, 5), MidConfig(64, 4, 1, 3, 4)),
    (512, 0.0): (MidConfig(96, 3, 1, 3, 3),),
    (512, SKEW): (MidConfig(96, 3, 1, 3, 3),),
    (64, 0.0): (MidConfig(24, 4, 1, 3, 5),),
}


def random_layer(experts: int) -> HopperExperts:
    """Any bytes are valid weights."""

    def nibbles(rows: int, columns: int) -> Tensor:
        shape = (experts, rows // 16, columns // 64, 32, 16)
        return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")

    def scales(rows: int, columns: int) -> Tensor:
        shape = (experts, rows // 16, columns // 64, 8, 4)
        return torch.randint(118, 120, shape, dtype=torch.uint8, device="cuda")

    def bias(size: int) -> Tensor:
        return torch.randn(experts, size, dtype=torch.bfloat16, device="cuda")

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


def choices(tokens: int, experts: int, skew: float) -> Tensor:
    """int32 [tokens, K]"""
    taste = torch.randn(tokens, experts, device="cuda")
    popularity = skew * torch.randn(experts, device="cuda")
    return (taste + popularity).topk(K, dim=-1).indices.int()


def time_one(layers: list[HopperExperts], config: OneConfig, repeats: int) -> None:
    torch.manual_seed(1)
    x = torch.randn(1, HIDDEN, device="cuda").bfloat16()
    normed = torch.randn(1, HIDDEN, device="cuda").bfloat16()
    logits = torch.randn(len(layers), layers[0].num_experts, device="cuda")
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


def time_grouped(
    name: str,
    layers: list[HopperExperts],
    tokens: int,
    rows: int,
    run: Callable[[Tensor, Groups, HopperExperts], Tensor],
    config: object,
    repeats: int,
    skew: float,
) -> None:
    """Time `run` with work items of up to `rows` rows."""
    torch.manual_seed(tokens)
    num_experts = layers[0].num_experts
    name = f"{name}, skew {skew}" if skew else name
    try:
        normed = torch.randn(tokens, HIDDEN, device="cuda").bfloat16()
        chosen = [choices(tokens, num_experts, skew) for _ in layers]
        in_use = sum(len(one.unique()) for one in chosen) / len(layers)
        groups = [group(one, num_experts, rows) for one in chosen]
        us = graph_microseconds(
            lambda: [run(normed, *one) for one in zip(groups, layers, strict=True)],
            per=len(layers),
            repeats=repeats,
        )
        floor = in_use * BYTES_AN_EXPERT / BYTES_A_MICROSECOND
        report(name, tokens, config, us, floor)
    except Exception as error:
        report_error(name, tokens, config, error)


def time_few(
    layers: list[HopperExperts], tokens: int, config: FewConfig, repeats: int, skew: float
) -> None:
    def run(normed: Tensor, groups: Groups, layer: HopperExperts) -> Tensor:
        return experts_few(normed, groups, layer, ALPHA, LIMIT, config=config)

    rows = config.rows_a_tile
    time_grouped("experts_few", layers, tokens, rows, run, astuple(config), repeats, skew)


def time_mid(
    layers: list[HopperExperts], tokens: int, config: MidConfig, repeats: int, skew: float
) -> None:
    def run(normed: Tensor, groups: Groups, layer: HopperExperts) -> Tensor:
        return experts_mid(normed, groups, layer, ALPHA, LIMIT, config=config)

    rows = config.rows_a_tile
    time_grouped("experts_mid", layers, tokens, rows, run, astuple(config)[:7], repeats, skew)


def time_many(layers: list[HopperExperts], tokens: int, repeats: int, skew: float) -> None:
    rows = prefill_rows_a_tile(tokens * K, layers[0].num_experts)
    config = default_config(rows)

    def run(normed: Tensor, groups: Groups, layer: HopperExperts) -> Tensor:
        return experts_many(normed, groups, layer, ALPHA, LIMIT, config=config)

    time_grouped("experts_many", layers, tokens, rows, run, astuple(config), repeats, skew)


def time_usual(layers: list[HopperExperts], tokens: int, repeats: int, skew: float) -> None:
    """The launch shapes in use for these tokens."""
    count = layers[0].num_experts
    few = few_config(rows_a_tile(tokens, K, count), HIDDEN, INTERMEDIATE)
    time_few(layers, tokens, few, repeats, skew)
    if tokens in MID_TOKENS:
        mid = mid_config(mid_rows_a_tile(tokens, K, count), HIDDEN, INTERMEDIATE)
        time_mid(layers, tokens, mid, repeats, skew)
        if tokens >= MANY_TOKENS:
            time_many(layers, tokens, repeats, skew)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("mid",))
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--skew", type=float, default=0.0)
    options = parser.parse_args()
    begin = time.monotonic()
    torch.manual_seed(0)
    count = options.experts
    layers = [random_layer(count) for _ in range(max(2, PACKED_EXPERTS // count))]
    repeats = 5 if options.quick else 15
    usual_only = options.quick or count != 32
    skew = options.skew
    if options.only is None:
        for one in ONE[:1] if usual_only else ONE:
            time_one(layers, one, repeats)
        sizes = (8, 32, 128) if options.quick else (2, 4, 8, 16, 32, *MID_TOKENS)
    else:
        sizes = (128, 256) if options.quick else MID_TOKENS
    for tokens in sizes:  # the shapes in use first
        time_usual(layers, tokens, repeats, skew)
    if usual_only:
        return
    for tokens in SKEWED_TOKENS:
        time_usual(layers, tokens, repeats, SKEW)
    for (tokens, one_skew), shapes in MID.items():
        for mid in shapes:
            if time.monotonic() - begin < LATEST:
                time_mid(layers, tokens, mid, repeats, one_skew)
    for tokens in (256, 128, 64, 192, 8, 2, 32, 512) if options.only is None else ():
        for few in FEW[tokens]:
            if time.monotonic() - begin < LATEST:
                time_few(layers, tokens, few, repeats, skew)


if __name__ == "__main__":
    main()
