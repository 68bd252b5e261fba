"""Pinned memory for what a step of the sampler sends and receives, used again and again."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ossia.kernels.sampling.interface import WORDS_A_ROW, new_result, stride_of


class Stage:
    """One step's memory on the host; pinned if the device is a GPU.

    Attributes:
        sent: int32 [WORDS_A_ROW * stride], what `interface.unpack` reads; and as an array.
        received: int32 [2, stride], as `new_result` says; and as an array.
        event: when what was sent is read and what is received has come; None on a CPU.
    """

    __slots__ = ("event", "received", "received_array", "sent", "sent_array")

    def __init__(self, device: torch.device, max_rows: int) -> None:
        pinned = device.type == "cuda"
        # Tensors made in inference mode could not be written outside of it.
        with torch.inference_mode(False):
            size = WORDS_A_ROW * stride_of(max_rows)
            self.sent = torch.zeros(size, dtype=torch.int32, pin_memory=pinned)
            self.received = new_result(max_rows, torch.device("cpu"))
            if pinned:
                self.received = self.received.pin_memory()
        self.sent_array: NDArray[np.int32] = self.sent.numpy()
        self.received_array: NDArray[np.int32] = self.received.numpy()
        self.event: torch.cuda.Event | None = None
        if pinned:
            self.event = torch.cuda.Event()  # type: ignore[no-untyped-call]


class Stages:
    """As many stages as there are steps whose results nobody has read yet."""

    def __init__(self, device: torch.device, max_rows: int) -> None:
        self._device = device
        self._max_rows = max_rows
        self._free: list[Stage] = []

    def take(self) -> Stage:
        """A stage that nobody uses, for as long as it is not given back."""
        return self._free.pop() if self._free else Stage(self._device, self._max_rows)

    def give_back(self, stage: Stage) -> None:
        """Its event has passed, and nobody reads from it any more."""
        self._free.append(stage)
