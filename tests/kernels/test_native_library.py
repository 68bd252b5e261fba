"""Finding, opening and sharing the native CPU library."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ossia.kernels.native.library import (
    LEVEL_VARIABLE,
    LIBRARY_VARIABLE,
    THREADS_VARIABLE,
    NativeUnavailable,
    _container_limit,
    default_threads,
    load,
    open_context,
    status,
)
from ossia.kernels.native.matrices import Kind, pack_dense
from ossia.kernels.native.measure import Geometry, measure
from ossia.kernels.native.operations import linear, plain_read

built = pytest.mark.skipif(not status().available, reason="the CPU library was not built")


@built
def test_the_best_level_is_taken_unless_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    assert open_context().level == status().levels[0]
    assert open_context("portable").level == "portable"
    monkeypatch.setenv(LEVEL_VARIABLE, "portable")
    assert open_context().level == "portable"


@built
def test_a_level_that_this_processor_lacks_is_named_in_the_error() -> None:
    with pytest.raises(NativeUnavailable, match=r"no level 'avx9000' .*portable"):
        open_context("avx9000")


@built
def test_threads_come_from_the_argument_the_environment_or_the_cores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    assert open_context().threads == default_threads() >= 1
    monkeypatch.setenv(THREADS_VARIABLE, "3")
    assert open_context().threads == 3
    assert open_context(threads=2).threads == 2


@pytest.mark.parametrize(
    ("text", "processors"), [("250000 100000\n", 3), ("max 100000\n", None), (None, None)]
)
def test_the_limit_of_a_container_counts(
    tmp_path: Path, text: str | None, processors: int | None
) -> None:
    file = tmp_path / "cpu.max"
    if text is not None:
        file.write_text(text)
    assert _container_limit(file) == processors


@built
def test_a_processor_without_extensions_gets_the_portable_level() -> None:
    assert status().levels[-1] == "portable"


def test_a_missing_library_is_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ossia.kernels.native.library._FILE_NAMES", ("_not_built.so",))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    found = status()
    assert not found.available
    assert "C++ compiler" in found.sentence
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    with pytest.raises(NativeUnavailable, match="do not load"):
        load(broken)


@built
def test_threads_end_with_their_context() -> None:
    before = len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 0
    if not before:
        pytest.skip("no /proc to count threads in")
    context = open_context(threads=4)
    assert len(os.listdir("/proc/self/task")) == before + 3
    del context
    gc.collect()
    assert len(os.listdir("/proc/self/task")) == before


@built
def test_callers_of_one_context_take_turns() -> None:
    context = open_context(threads=2)
    rng = torch.Generator().manual_seed(0)
    matrix = pack_dense(context, torch.randn(512, 256, generator=rng))
    x = torch.randn(1, 256, generator=rng)
    wanted = linear(context, x, matrix)
    wrong = []

    def call() -> None:
        for _ in range(200):
            if not torch.equal(linear(context, x, matrix), wanted):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@built
def test_idle_threads_sleep() -> None:
    context = open_context(threads=3)
    plain_read(context, torch.zeros(2**22, dtype=torch.uint8))
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - before < 0.1


@built
def test_many_more_threads_than_cores_work() -> None:
    context = open_context(threads=16)
    rng = torch.Generator().manual_seed(0)
    weight = torch.randn(2000, 64, generator=rng)
    x = torch.randn(2, 64, generator=rng)
    found = linear(context, x, pack_dense(context, weight, kind=Kind.BF16))
    for _ in range(300):
        plain_read(context, weight)
    wanted = x.double() @ weight.bfloat16().double().T
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@built
def test_a_forked_child_computes_without_the_threads_it_lost() -> None:
    script = """
import os, torch
from ossia.kernels.native.library import open_context
from ossia.kernels.native.operations import plain_read
context = open_context(threads=3)
memory = torch.arange(2**20)
wanted = plain_read(context, memory)
child = os.fork()
if child == 0:
    os._exit(plain_read(context, memory) != wanted)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60)
    assert done.returncode == 0


@built
def test_measuring_compares_every_kernel_with_its_ceiling() -> None:
    sizes = Geometry(hidden=64, intermediate=64, qkv_rows=96, head_rows=128, experts=8, layers=2)
    found = {one.name: one for one in measure(open_context(threads=2), sizes, rounds=1)}
    assert found["plain_read"].share_of_ceiling == 1
    assert found["torch_matmul"].share_of_ceiling == 1
    assert {one.unit for name, one in found.items() if "expert" in name} == {"GB/s", "GFLOP/s"}
    assert all(one.speed > 0 and one.share_of_ceiling > 0 for one in found.values())
