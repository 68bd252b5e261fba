"""Times the kernels around the experts at 96 to 256 tokens, beside what the library does.

    python -m benchmarks.kernels.dense_mid [--quick] [--only NAME] [--seconds 60]

Prints a line of JSON for each configuration of `cuda_mid.py`, the default first, after the
library's; `--quick` tries the defaults only. See `dense_few.py`, which has the other sizes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.kernels.dense_few import (
    EPS,
    EXPERTS,
    HIDDEN,
    MIXED,
    QKV_ROWS,
    VOCAB,
    Case,
    Weights,
    floor,
    run_cases,
)
from ossia.kernels.attention_out import cuda_mid as out_mid
from ossia.kernels.attention_out.fused_many import project_out_library
from ossia.kernels.linear.cuda_mid import MidShape, groups_for
from ossia.kernels.lm_head import cuda_mid as head_mid
from ossia.kernels.lm_head.fused_many import logits_library
from ossia.kernels.qkv import cuda_mid as qkv_mid
from ossia.kernels.qkv.fused_many import project_normed_library
from ossia.kernels.router.cuda_route import route_and_group_cuda

SIZES = (256, 128, 192, 96)
ROUTED = (64, 32)  # at which routing is tried besides


def qkv_shapes(tokens: int) -> list[MidShape]:
    """The default, then other ways to cut 5120 rows, by how many slots shared memory holds."""
    groups = groups_for(tokens)
    shapes = [
        qkv_mid.default_shape(tokens),
        MidShape(128, groups, {2: 7, 3: 5, 4: 4}[groups], splits=2),
        MidShape(64, groups, {2: 9, 3: 7, 4: 5}[groups]),
        MidShape(64, groups, {2: 9, 3: 7, 4: 5}[groups], share=2),
        MidShape(64, 2, 4, splits=3, blocks=2),
    ]
    return shapes + ([MidShape(64, 2, 4, blocks=2)] if tokens > 128 else [])


def out_shapes(tokens: int) -> list[MidShape]:
    """The same for 2880 rows."""
    groups = groups_for(tokens)
    return [
        out_mid.default_shape(tokens),
        MidShape(96, groups, {2: 7, 3: 6, 4: 5}[groups], splits=3),
        MidShape(48, groups, {2: 9, 3: 7, 4: 5}[groups], splits=2),
        MidShape(64, groups, {2: 9, 3: 7, 4: 5}[groups], splits=2),
        MidShape(192, 2, 5, splits=4),
        MidShape(96, 2, 3, splits=4, blocks=2),
    ]


def head_shapes(tokens: int) -> list[MidShape]:
    """The same for the vocabulary."""
    groups = groups_for(tokens)
    default = head_mid.default_shape(tokens)
    shapes = [default, MidShape(128, groups, default.stages)]
    if tokens <= 128:
        shapes.append(MidShape(192, 2, 5, share=2))
        shapes.append(MidShape(128, 2, 3, blocks=2))
    return shapes


def mid_cases(w: Weights, quick: bool) -> Iterator[Case]:
    """Everything of 96 to 256 tokens that `cuda_mid.py` or one launch of the router could do."""

    def qkv(tokens: int, config: dict[str, Any], run: Any, **options: Any) -> Case:
        moved = 2 * (w.qkv[0].numel() + tokens * (HIDDEN + QKV_ROWS))
        us = floor(read=moved, flop=2 * tokens * w.qkv[0].numel())
        work = w.qkv_work(tokens, run, pdl=True, **options)
        return Case("qkv_mid", tokens, config, work, us)

    def out(tokens: int, config: dict[str, Any], run: Any, **options: Any) -> Case:
        moved = 2 * (w.out[0].numel() + tokens * (2 * HIDDEN + MIXED))
        us = floor(read=moved, flop=2 * tokens * w.out[0].numel())
        work = w.out_work(tokens, run, pdl=True, **options)
        return Case("out_mid", tokens, config, work, us)

    def route(tokens: int, fused: bool) -> Case:
        def work(i: int) -> object:
            return route_and_group_cuda(w.x[:tokens], *w.router_of(i), 48, pdl=True, fused=fused)

        us = floor(read=(2 * tokens + EXPERTS) * 2 * HIDDEN)
        return Case("route_mid", tokens, {"fused": fused}, work, us)

    def head(tokens: int, shape: MidShape | None) -> Case:
        x, norm = w.x[:tokens], w.norm[0]
        room = torch.empty(tokens, VOCAB, device="cuda")

        def work(i: int) -> object:
            if shape is None:
                return logits_library(x, norm, EPS, w.head, pdl=True, out=room)
            return head_mid.logits_mid(x, norm, EPS, w.head, shape=shape, pdl=True, out=room)

        us = floor(read=2 * w.head.numel() + 4 * tokens * VOCAB, flop=2 * tokens * w.head.numel())
        config = {"library": True} if shape is None else asdict(shape)
        return Case("head_mid", tokens, config, work, us, 1)

    few = 1 if quick else None
    for tokens in SIZES:
        yield qkv(tokens, {"library": True}, project_normed_library)
        for shape in qkv_shapes(tokens)[:few]:
            yield qkv(tokens, asdict(shape), qkv_mid.project_normed_mid, shape=shape)
        yield out(tokens, {"library": True}, project_out_library)
        for shape in out_shapes(tokens)[:few]:
            yield out(tokens, asdict(shape), out_mid.project_out_mid, shape=shape)
        yield route(tokens, False)
        yield route(tokens, True)
    for tokens in ROUTED:
        yield route(tokens, False)
        yield route(tokens, True)
    for tokens in SIZES:
        for of_head in [None, *head_shapes(tokens)[:few]]:
            yield head(tokens, of_head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only the defaults and the library")
    parser.add_argument("--only", default="", help="kernels whose names contain this")
    parser.add_argument("--seconds", type=float, default=60, help="stop after this long")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    cases = mid_cases(Weights(), options.quick)
    run_cases([case for case in cases if options.only in case.kernel], end)


if __name__ == "__main__":
    main()
