"""Sampling kernels: the two of every step, and those of batches with filters.

    python -m benchmarks.kernels.sampling [--quick]

The floor is one read of the logits at 3.0 TB/s (three of them with top_k or top_p), for 1 row 2 us
a launch. Batches of logits rotate so that they do not stay in the L2. The last lines are the host's
part of a step, `DeviceSampler.launch`, in us of wall time, without a floor.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import torch

from benchmarks.kernels.timing import graph_microseconds, report, report_error
from ossia.engine.device_sampler import DeviceSampler
from ossia.engine.sampling_state import SamplingState
from ossia.kernels.sampling.interface import WORDS_A_ROW, Rows, new_result, stride_of, unpack
from ossia.sampling import SamplingParams

VOCAB = 201088
BYTES_A_US = 3.0e6
L2_BYTES = 200e6
CONFIGS = [  # chunk, warps of the first and the second kernel
    (2048, (4, 8)),
    (1024, (4, 8)),
    (4096, (8, 8)),
    (2048, (2, 4)),
    (4096, (4, 8)),
    (2048, (8, 8)),
]
FILTERS = {
    "top_k 50": (50, 1.0, 0.0),
    "top_p 0.95": (0, 0.95, 0.0),
    "top_k 50, top_p 0.95": (50, 0.95, 0.0),
    "top_k 5000": (5000, 1.0, 0.0),
    "min_p 0.05": (0, 1.0, 0.05),
}


def make_rows(count: int, *, masked: bool, filters: tuple[int, float, float]) -> Rows:
    top_k, top_p, min_p = filters
    buffer = torch.zeros(WORDS_A_ROW * stride_of(count), dtype=torch.int32, device="cuda")
    searches = top_k > 0 or top_p < 1.0
    rows = unpack(buffer, count, filters=searches or min_p > 0.0, searches=searches)
    rows.draws.copy_(torch.rand(count, dtype=torch.float64))
    rows.scales.fill_(math.log2(math.e))
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
    filters: tuple[int, float, float] = (0, 1.0, 0.0),
    options: dict[str, object] | None = None,
) -> None:
    """One line: the kernels of a step with `count` rows."""
    from ossia.kernels.sampling.triton_sampling import sample_rows

    size = count * VOCAB * 4
    batches = max(2, min(64, int(2 * L2_BYTES / size)))
    reads = 3 if filters[0] or filters[1] < 1.0 else 1
    try:
        logits = [torch.randn(count, VOCAB, device="cuda") * 3 for _ in range(batches)]
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
        states = [
            SamplingState(params, seed=i, prompt=(), stop_token_ids=(1,)) for i in range(count)
        ]
        logits = torch.randn(count, VOCAB, device=device)
        slots = torch.arange(count, dtype=torch.int32, device=device)
        last = torch.zeros_like(slots)
        times = []
        for _ in range(30):
            started = time.perf_counter()
            sampling = sampler.launch(logits, states, slots, last)
            times.append(time.perf_counter() - started)
            sampling.result()
        us = statistics.median(times) * 1e6
        report("sampling host", count, name, us, 0.0)
    except Exception as error:
        report_error("sampling host", count, name, error)


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
        measure_host(count, SamplingParams(), "plain")


if __name__ == "__main__":
    main()
