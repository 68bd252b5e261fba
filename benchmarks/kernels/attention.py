"""Times attention on a GPU: decoding against the bytes it reads, prefill against its products.

    python -m benchmarks.kernels.attention [--quick]

Every call of a graph has pages of its own, so that keys come from memory and not from the L2.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import astuple, replace

import torch
from torch import Tensor

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.kernels.attention import triton_decode, triton_prefill
from ossia.kernels.attention.decode_scratch import DecodeScratch
from ossia.kernels.attention.flash import find_flash
from ossia.kernels.attention.triton_decode import DecodeConfig
from ossia.kernels.attention.triton_prefill import PrefillConfig
from ossia.model.batch import LayerCache, PagedBatch

HEADS, KV_HEADS, HEAD_DIM, PAGE = 64, 8, 64, 16
SCALE = HEAD_DIM**-0.5
KEY_BYTES = 2 * KV_HEADS * HEAD_DIM * 2  # key and value of one token
BYTES_A_SECOND = 3.0e12
OPERATIONS_A_SECOND = 8.0e14  # what large matrix products in bfloat16 reach
COLD = 200 << 20  # bytes a graph reads, to be more than an L2 holds
WINDOW = 128

BY_EIGHT = DecodeConfig(128, warps=8, stages=2, least=128, most=1024, prefetch=False, early=True)
DECODE = [
    triton_decode.FULL,
    replace(triton_decode.FULL, early=False),
    replace(triton_decode.FULL, fill=264),
    replace(triton_decode.FULL, least=64),
    replace(triton_decode.FULL, least=256),
    BY_EIGHT,
    replace(BY_EIGHT, fill=264),
    triton_decode.FULL_MANY,
]
DECODE_WINDOW = [
    triton_decode.WINDOWED,
    replace(triton_decode.WINDOWED, early=False, prefetch=True),
    replace(triton_decode.WINDOWED, warps=4),
    triton_decode.WINDOWED_MANY,
]
PREFILL = [
    triton_prefill.FULL,
    PrefillConfig(rows=128, keys=64, warps=8, stages=3, registers=128),
    PrefillConfig(rows=256, keys=64, warps=8, stages=3),
    PrefillConfig(rows=128, keys=32, warps=4, stages=3, registers=168),
]
PREFILL_WINDOW = [
    triton_prefill.WINDOWED,
    replace(triton_prefill.WINDOWED, warps=4, registers=None),
    replace(triton_prefill.WINDOWED, rows=64, warps=4),
    replace(triton_prefill.WINDOWED, rows=256, warps=16),
    triton_prefill.WALKED,
]


def main() -> None:
    """Best configurations first; one line of JSON each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the default configurations only")
    some = slice(1) if parser.parse_args().quick else slice(None)
    scratch = DecodeScratch.allocate(256, HEADS, KV_HEADS, HEAD_DIM, torch.device("cuda"))
    for sequences, length in (
        (1, 128),
        (1, 640),
        (1, 7000),
        (8, 640),
        (32, 640),
        (64, 640),
        (256, 640),
    ):
        for config in DECODE[some]:
            time_decode(sequences, length, None, config, scratch)
    for sequences in (1, 32, 256):
        for config in DECODE_WINDOW[some]:
            time_decode(sequences, 640, WINDOW, config, scratch)
    for cached, new in (([0], [8000]), ([6144], [2048]), ([0] * 4, [2048] * 4)):
        for window, configs in ((None, PREFILL), (WINDOW, PREFILL_WINDOW)):
            for config in configs[some]:
                time_prefill(cached, new, window, config)
            time_flash(cached, new, window)
    for window in (None, WINDOW):
        for decodes in (0, 100):
            time_mixed(window, decodes)


def time_decode(
    sequences: int, length: int, window: int | None, config: DecodeConfig, scratch: DecodeScratch
) -> None:
    """One step of `sequences` sequences that all have `length` tokens."""
    name = "attend_decode" if window is None else "attend_decode_window"
    what = {"length": length, "config": astuple(config)}
    read = sequences * min(length, window or length) * KEY_BYTES
    calls = min(800, max(24, -(-COLD // read)))
    try:
        steps = [
            make_step([length - 1] * sequences, [1] * sequences, window, place, calls)
            for place in range(calls)
        ]
        cache, sinks = pool(steps), bfloat16(HEADS)
        q = bfloat16(sequences, HEADS, HEAD_DIM)

        def work() -> list[Tensor]:
            return [
                triton_decode.attend_decode(
                    q, cache, step, sinks, SCALE, window, scratch, config=config
                )
                for step in steps
            ]

        us = graph_microseconds(work, per=calls, repeats=5)
        report(name, sequences, what, us, (read + 4 * q.numel()) / BYTES_A_SECOND * 1e6)
    except Exception as error:  # goes on with the next configuration
        report_error(name, sequences, what, error)


def time_prefill(
    cached: list[int], new: list[int], window: int | None, config: PrefillConfig
) -> None:
    """One step of prompts, or of chunks of them."""

    def attend(q: Tensor, cache: LayerCache, step: PagedBatch, sinks: Tensor) -> Tensor:
        return triton_prefill.attend_prefill(q, cache, step, sinks, SCALE, window, config=config)

    _time_prompts("attend_prefill", cached, new, window, astuple(config), attend)


def time_mixed(window: int | None, decodes: int) -> None:
    """100 sequences that decode, and a prompt; `decodes` of them are known to do so."""

    def attend(q: Tensor, cache: LayerCache, step: PagedBatch, sinks: Tensor) -> Tensor:
        step = replace(step, num_decodes=decodes)
        return triton_prefill.attend_prefill(q, cache, step, sinks, SCALE, window)

    _time_prompts(
        "attend_mixed", [640] * 100 + [0], [1] * 100 + [200], window, f"{decodes} known", attend
    )


def time_flash(cached: list[int], new: list[int], window: int | None) -> None:
    """The same by another package's FlashAttention, where one is installed."""
    backend = find_flash(torch.cuda.get_device_capability())
    if backend is None:
        return

    def attend(q: Tensor, cache: LayerCache, step: PagedBatch, sinks: Tensor) -> Tensor:
        return backend.attend_prefill(q, cache, step, sinks, SCALE, window)

    _time_prompts("flash", cached, new, window, backend.name, attend)


def _time_prompts(
    name: str,
    cached: list[int],
    new: list[int],
    window: int | None,
    config: object,
    attend: Callable[[Tensor, LayerCache, PagedBatch, Tensor], Tensor],
) -> None:
    name = name if window is None else f"{name}_window"
    what = {"cached": cached, "new": new, "config": config}
    try:
        step = make_step(cached, new, window, 0, 1)
        cache, sinks = pool([step]), bfloat16(HEADS)
        q = bfloat16(sum(new), HEADS, HEAD_DIM)
        calls = 3
        us = graph_microseconds(
            lambda: [attend(q, cache, step, sinks) for _ in range(calls)], per=calls, repeats=5
        )
        pairs = sum(
            min(c + i + 1, window or c + i + 1)
            for c, n in zip(cached, new, strict=True)
            for i in range(n)
        )
        operations = 4 * HEADS * HEAD_DIM * pairs
        what["tflops"] = round(operations / us / 1e6, 1)
        report(name, sum(new), what, us, operations / OPERATIONS_A_SECOND * 1e6)
    except Exception as error:  # goes on with the next configuration
        report_error(name, sum(new), what, error)


def make_step(
    cached: list[int], new: list[int], window: int | None, place: int, places: int
) -> PagedBatch:
    """A step whose pages lie apart from those of the other places, in random order."""
    lengths = [c + n for c, n in zip(cached, new, strict=True)]
    firsts = [0 if window is None else max(0, c - window + 1) // PAGE * PAGE for c in cached]
    counts = [-(-(n - f) // PAGE) for n, f in zip(lengths, firsts, strict=True)]
    own = torch.randperm(sum(counts)) * places + place
    table = torch.zeros(len(new), max(counts), dtype=torch.int32)
    for row, pages in enumerate(own.split(counts)):
        table[row, : len(pages)] = pages

    def int32(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int32, device="cuda")

    return PagedBatch(
        slots=torch.empty(0, dtype=torch.int64, device="cuda"),
        page_table=table.cuda(),
        first_positions=int32(firsts),
        kv_lens=int32(lengths),
        query_starts=int32([0, *torch.tensor(new).cumsum(0).tolist()]),
        max_query_len=max(new),
        max_kv_len=max(lengths),
    )


def pool(steps: list[PagedBatch]) -> LayerCache:
    """Random keys and values for all pages of the steps."""
    pages = 1 + max(int(step.page_table.max()) for step in steps)
    return LayerCache(*(bfloat16(pages, PAGE, KV_HEADS, HEAD_DIM) for _ in range(2)))


def bfloat16(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
