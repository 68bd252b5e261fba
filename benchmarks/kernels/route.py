"""Times routing and grouping at 16 to 256 tokens, in one launch and in two.

    python -m benchmarks.kernels.route

Prints a line of JSON for each. See `dense_few.py`, which has the other sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.kernels.dense_few import EXPERTS, HIDDEN, Case, Weights, floor, run_cases
from ossia.kernels.router.cuda_route import route_and_group_cuda

SIZES = (16, 32, 48, 64, 96, 128, 192, 256)
SECONDS = 30.0  # after which no further case is tried


def cases(w: Weights) -> Iterator[Case]:
    """Both ways of each size."""

    def route(tokens: int, fused: bool) -> Case:
        def work(i: int) -> object:
            return route_and_group_cuda(w.x[:tokens], *w.router_of(i), 48, pdl=True, fused=fused)

        us = floor(read=(2 * tokens + EXPERTS) * 2 * HIDDEN)
        return Case("route", tokens, {"fused": fused}, work, us)

    for tokens in SIZES:
        yield route(tokens, False)
        yield route(tokens, True)


def main() -> None:
    end = time.monotonic() + SECONDS
    run_cases(list(cases(Weights())), end)


if __name__ == "__main__":
    main()
