"""Sampling kernels: the two of every step, and those of batches with filters.

    python -m benchmarks.kernels.sampling [--quick]

The floor is one read of the logits at 3.0 TB/s (three of them with top_k or top_p), for 1 row 2 us
a launch. Batches of logits rotate so that they do not stay in the L2. The last lines of a number of
rows are the host's part of a step in us of wall time, without a floor: `DeviceSampler.launch`, and
what it consists of.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.engine.device_sampler import DeviceSampler
from ossia.engine.device_sampling_rows import HostRows
from ossia.engine.device_sampling_stage import Stage
from ossia.engine.sampling_state import SamplingState
from ossia.kernels.sampling.interface import WORDS_A_ROW, Rows, new_result, stride_of, unpack
from ossia.sampling import SamplingParams

VOCAB = 201088
BYTES_A_US = 3.0e6
L2_BYTES = 200e6
CONFIGS = [  # chunk, warps of the first and the second kernel
    (2048, (4, 8)),
    (1024, (4, 8)),
]
# top_k, top_p, min_p, temperature, share of the tokens that stand out
FILTERS = {
    "top_k 50": (50, 1.0, 0.0, 1.0, 0.0),
    "top_p 0.95": (0, 0.95, 0.0, 1.0, 0.0),
    "top_p 0.95, peaked": (0, 0.95, 0.0, 1.0, 1e-4),
    "top_k 50, top_p 0.95": (50, 0.95, 0.0, 1.0, 0.0),
    "top_k 5000": (5000, 1.0, 0.0, 1.0, 0.0),
    "min_p 0.05": (0, 1.0, 0.05, 1.0, 0.0),
    "top_p 0.9, not listed": (0, 0.9, 0.0, 1e6, 0.0),
}
PLAIN = (0, 1.0, 0.0, 1.0, 0.0)
SEARCHES = [  # of top_p 0.95; the first ones are in use
    {"bins": 256, "tile": 4096, "warps": 16},
    {"bins": 512, "tile": 4096, "warps": 16},
    {"bins": 256, "tile": 2048, "warps": 8},
    {"bins": 256, "tile": 2048, "warps": 16},
    {"bins": 128, "tile": 4096, "warps": 16},
]
HOST_PARAMS = {
    "plain": SamplingParams(),
    "greedy": SamplingParams(temperature=0.0),
    "top_p 0.95": SamplingParams(top_p=0.95),
}
HOST_STEPS = 50


def make_rows(count: int, *, masked: bool, filters: tuple[int, float, float, float, float]) -> Rows:
    top_k, top_p, min_p, temperature, _ = filters
    buffer = torch.zeros(WORDS_A_ROW * stride_of(count), dtype=torch.int32, device="cuda")
    searches = top_k > 0 or top_p < 1.0
    rows = unpack(buffer, count, filters=searches or min_p > 0.0, searches=searches)
    rows.draws.copy_(torch.rand(count, dtype=torch.float64))
    rows.scales.fill_(math.log2(math.e) / temperature)
    rows.masks.copy_(torch.arange(count) % 8 if masked else torch.full((count,), -1))
    rows.forced.fill_(-1)
    rows.top_ks.fill_(top_k)
    rows.top_ps.fill_(top_p)
    rows.min_ps.fill_(min_p)
    return rows


def measure(
    name: str,
    count: int,
    config: object,
    *,
    masked: bool = False,
    filters: tuple[int, float, float, float, float] = PLAIN,
    options: dict[str, object] | None = None,
) -> None:
    """One line: the kernels of a step with `count` rows."""
    from ossia.kernels.sampling.triton_sampling import sample_rows

    size = count * VOCAB * 4
    batches = max(2, min(64, int(2 * L2_BYTES / size)))
    reads = 3 if filters[0] or filters[1] < 1.0 else 1
    try:
        logits = [torch.randn(count, VOCAB, device="cuda") * 3 for _ in range(batches)]
        for batch in logits if filters[-1] else ():
            batch += 20.0 * (torch.rand(count, VOCAB, device="cuda") < filters[-1])
        rows = make_rows(count, masked=masked, filters=filters)
        table = torch.randint(-(2**31), 2**31, (8, VOCAB // 32), device="cuda").int()
        slots = torch.arange(count, dtype=torch.int32, device="cuda")
        last = torch.zeros_like(slots)
        result = new_result(count, logits[0].device)

        def work() -> None:
            for batch in logits:
                sample_rows(
                    batch, rows, table, result, slots, last, columns=VOCAB, **(options or {})
                )

        us = graph_microseconds(work, per=batches, repeats=10)
        report(name, count, config, us, max(2.0 * reads, reads * size / BYTES_A_US))
    except Exception as error:
        report_error(name, count, config, error)


def measure_host(count: int, params: SamplingParams, name: str) -> None:
    """One line: how long the host takes to enqueue a step."""
    try:
        device = torch.device("cuda")
        sampler = DeviceSampler(device, count, VOCAB)
        states = make_states(count, params)
        logits = torch.randn(count, VOCAB, device=device)
        slots = torch.arange(count, dtype=torch.int32, device=device)
        last = torch.zeros_like(slots)
        times = []
        for _ in range(HOST_STEPS):
            started = time.perf_counter()
            sampling = sampler.launch(logits, states, slots, last)
            times.append(time.perf_counter() - started)
            sampling.result()
        report("sampling host", count, name, statistics.median(times) * 1e6, 0.0)
    except Exception as error:
        report_error("sampling host", count, name, error)


def measure_host_parts(count: int) -> None:
    """A line for each part of `DeviceSampler.launch` in a step without filters."""
    from ossia.kernels.sampling.triton_launch import Launcher
    from ossia.kernels.sampling.triton_sampling import sample_rows

    try:
        device = torch.device("cuda")
        states = make_states(count, SamplingParams())
        stage = Stage(device, count)
        event = stage.event
        assert event is not None
        sent = torch.zeros_like(stage.sent, device=device)
        rows = unpack(sent, count, filters=False, searches=False)
        result = new_result(count, device)
        logits = torch.randn(count, VOCAB, device=device)
        table = torch.zeros((8, VOCAB // 32), dtype=torch.int32, device=device)
        slots = torch.arange(count, dtype=torch.int32, device=device)
        last = torch.zeros_like(slots)
        launcher = Launcher()

        def launch(remembers: Launcher | None) -> None:
            sample_rows(
                logits, rows, table, result, slots, last, columns=VOCAB, pdl=True, launch=remembers
            )

        parts: dict[str, Callable[[], object]] = {
            "rows": lambda: HostRows(states, VOCAB).write(stage.sent_array),
            "copy there": lambda: sent.copy_(stage.sent, non_blocking=True),
            "kernels": lambda: launch(launcher),
            "kernels, launched by Triton": lambda: launch(None),
            "copy back": lambda: stage.received.copy_(result, non_blocking=True),
            "event": lambda: event.record(torch.cuda.current_stream(device)),
            "waiting for nothing": event.synchronize,
        }
    except Exception as error:
        report_error("sampling host part", count, None, error)
        return
    for name, part in parts.items():
        try:
            times = []
            for _ in range(HOST_STEPS):
                torch.cuda.synchronize()
                started = time.perf_counter()
                part()
                times.append(time.perf_counter() - started)
            report("sampling host part", count, name, statistics.median(times) * 1e6, 0.0)
        except Exception as error:
            report_error("sampling host part", count, name, error)


def make_states(count: int, params: SamplingParams) -> list[SamplingState]:
    return [SamplingState(params, seed=i, prompt=(), stop_token_ids=(1,)) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the configuration in use, few sizes")
    quick = parser.parse_args().quick
    for count in (1, 256) if quick else (1, 8, 64, 256):
        for chunk, warps in CONFIGS[:1] if quick else CONFIGS:
            for pdl in (True, False):
                options: dict[str, object] = {"chunk": chunk, "warps": warps, "pdl": pdl}
                measure("sampling", count, options, options=options)
        in_use: dict[str, object] = {"pdl": True}
        measure("sampling", count, "masks", masked=True, options=in_use)
        for name, filters in FILTERS.items():
            if count in (1, 256):
                measure("sampling filters", count, name, filters=filters, options=in_use)
        for search in SEARCHES[1:]:
            if count in (1, 256) and not quick:
                measure(
                    "sampling filters",
                    count,
                    {"top_p": 0.95, **search},
                    filters=FILTERS["top_p 0.95"],
                    options={**in_use, "search": search},
                )
        for name, params in HOST_PARAMS.items():
            measure_host(count, params, name)
        measure_host_parts(count)


if __name__ == "__main__":
    main()
