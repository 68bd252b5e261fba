"""The native CPU kernels: which level runs here and how fast it is, or what is missing."""

from __future__ import annotations

from collections.abc import Iterator

from ossia.cli.doctor.check import Check

_TOKENS = 64  # of the prompt that products are measured with


def native() -> Iterator[Check]:
    """The level in use, its self-test, and its speed beside a plain read and torch's product.

    The measurement is short, a second at most: `ossia bench kernels` takes its time.
    """
    import torch

    from ossia.checkpoint.dummy import GEOMETRIES
    from ossia.kernels.native.kernels import native_kernels
    from ossia.kernels.native.library import status
    from ossia.kernels.native.self_test import warm_up

    found = status()
    if not found.available:
        yield Check("native", "warn", found.sentence)
        return
    kernels = native_kernels()
    list(warm_up(kernels, GEOMETRIES["gpt-oss-20b"], torch.device("cpu"), 1, 1))
    others = ", ".join(level for level in found.levels if level != kernels.context.level)
    yield Check(
        "native",
        "ok",
        f"{kernels.context.level} kernels, {kernels.context.threads} threads; self-test passed; "
        f"OSSIA_CPU_LEVEL can be {others or 'nothing else'}",
    )
    yield from _speeds()


def _speeds() -> Iterator[Check]:
    from ossia.kernels.native.library import open_context
    from ossia.kernels.native.measure import Geometry, measure

    small = Geometry(qkv_rows=2560, head_rows=5120, experts=6, layers=3)
    table = {entry.name: entry for entry in measure(open_context(), small, rounds=2)}
    decode, prompt = table["expert_gemv"], table[f"expert_gemm_{_TOKENS}_tokens"]
    yield Check(
        "native decode",
        "ok",
        f"experts are read at {decode.speed:.1f} GB/s, a plain read does {decode.ceiling:.1f}",
    )
    yield Check(
        "native prompts",
        "ok",
        f"experts multiply {_TOKENS} tokens at {prompt.speed:.0f} GFLOP/s, torch does "
        f"{prompt.ceiling:.0f} on weights that are unpacked already",
    )
