"""Launches that skip Triton's binding of arguments compute what its own launches compute."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")
import triton
import triton.language as tl

from ossia.kernels.fast_launch import FastKernel, fast_jit

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here"),
]


def weighted(out_ptr, x_ptr, count, step, weight, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    x = tl.load(x_ptr + at * step, mask=at < count, other=0.0)
    tl.store(out_ptr + at, x * weight, mask=at < count)


KERNELS = {"all specialised": {}, "count is not": {"do_not_specialize": ["count", "x_ptr"]}}


def run(kernel: Any, x: torch.Tensor, count: int, step: int, weight: float, size: int):
    out = torch.full((count,), float("nan"), dtype=x.dtype, device="cuda")
    kernel[(triton.cdiv(count, size),)](out, x, count, step, weight, SIZE=size, num_warps=1)
    return out


@pytest.mark.parametrize("options", KERNELS.values(), ids=KERNELS)
def test_every_variant_gives_what_triton_gives(options: dict[str, Any]) -> None:
    fast = fast_jit(**options)(weighted)
    memory = torch.randn(4096, device="cuda")
    for _ in range(3):  # compiled, then remembered, then remembered with others in between
        for dtype in (torch.float32, torch.float16):
            for first in (0, 1, 8):  # aligned or not
                for count in (1, 16, 100, 1000):
                    for step in (1, 2, 4):
                        x = memory.to(dtype)[first:]
                        found = run(fast, x, count, step, 2.5, 64)
                        expected = (x[: count * step : step] * 2.5)[:count]
                        assert torch.equal(found, expected), (dtype, first, count, step)


def test_constants_are_told_apart() -> None:
    fast = fast_jit()(weighted)
    x = torch.randn(1000, device="cuda")
    for size in (16, 64, 16, 64, 256):
        assert torch.equal(run(fast, x, 1000, 1, 3.0, size), x * 3.0)
    assert torch.equal(run(fast, x, 1000, 1, 0.5, 64), x * 0.5)


def test_a_launch_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = fast_jit()(weighted)
    x = torch.randn(1000, device="cuda")
    run(fast, x, 1000, 1, 3.0, 64)

    class Refused:
        def __getitem__(self, grid: object) -> Any:
            raise AssertionError("Triton's own launch was used again")

        def __getattr__(self, name: str) -> Any:
            return getattr(kernel, name)

    kernel = fast.kernel
    monkeypatch.setattr(fast, "kernel", Refused())
    assert torch.equal(run(fast, x, 1000, 1, 2.0, 64), x * 2.0)
    with pytest.raises(AssertionError, match="own launch"):
        run(fast, x, 992, 1, 2.0, 64)  # a multiple of 16: another variant


def test_a_graph_can_capture_it() -> None:
    fast: FastKernel = fast_jit()(weighted)
    x = torch.randn(1000, device="cuda")
    run(fast, x, 1000, 1, 3.0, 64)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run(fast, x, 1000, 1, 3.0, 64)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            out = run(fast, x, 1000, 1, 3.0, 64)
    x.copy_(torch.randn(1000, device="cuda"))
    torch.cuda.synchronize()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, x * 3.0)
