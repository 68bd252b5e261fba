"""What a start does beside the loading: threads with results, kernels made ready and tested."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from ossia.config import ModelConfig
from ossia.engine.beside import Beside
from ossia.engine.cuda_context import begin_cuda_context
from ossia.engine.warm_up import warm_up
from ossia.errors import StartupError
from ossia.kernels.select import select_kernels

CPU = torch.device("cpu")


class WithWarmUp:
    """Kernels that have something to compile."""

    def __init__(self) -> None:
        self._kernels = select_kernels(CPU, torch.float32)
        self.asked: list[tuple[ModelConfig, torch.device, int, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels, name)

    def warm_up(
        self, model: ModelConfig, device: torch.device, max_rows: int, max_tokens: int
    ) -> list[str]:
        self.asked.append((model, device, max_rows, max_tokens))
        return ["experts: compiled in 0.1 s"]


def test_kernels_are_made_ready_for_the_model_and_tested() -> None:
    kernels = WithWarmUp()
    model = ModelConfig()
    done = warm_up(kernels, model, CPU, torch.float32, max_rows=3, max_tokens=5)  # type: ignore[arg-type]
    assert kernels.asked == [(model, CPU, 3, 5)]
    assert done.lines == ("experts: compiled in 0.1 s",)
    assert done.seconds > 0


def test_a_kernel_that_computes_wrong_numbers_stops_the_start() -> None:
    good = select_kernels(CPU, torch.float32)
    bad = replace(good, rms_norm=lambda x, weight, eps: good.rms_norm(x, weight, eps) * 1.01)
    with pytest.raises(StartupError, match="The rms_norm kernel gives wrong numbers on cpu"):
        warm_up(bad, ModelConfig(), CPU, torch.float32, max_rows=1, max_tokens=1)


def test_work_beside_gives_its_result_or_raises_its_fault() -> None:
    release = threading.Event()
    slow = Beside(lambda: release.wait(10), "slow")
    release.set()
    assert slow.result() is True
    assert slow.result() is True

    def fail() -> None:
        raise StartupError("no compiler")

    failing = Beside(fail, "failing")
    with pytest.raises(StartupError, match="no compiler"):
        failing.result()


def test_a_machine_without_a_driver_is_none_the_worse() -> None:
    begin_cuda_context()
    for thread in threading.enumerate():
        if thread.name == "cuda-context":
            thread.join(20)
    assert torch.ones(2).sum() == 2
