"""Masks on the device: one table of bits, in which equal masks share a row."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch

from ossia.engine.masks import MASK_WORDS, AllBut, Only, words_of

TOGETHER = 16  # masks that are copied at once; one size of pinned memory serves all copies


class MaskTable:
    """Bits of the masks that were used last.

    Rows are overwritten by copies on the current stream, which therefore come after the steps that
    read them. Use it on one stream only.

    Attributes:
        bits: int32 [capacity, MASK_WORDS].
    """

    def __init__(self, device: torch.device, capacity: int) -> None:
        """`capacity` must be at least the masks of one step; each takes 25 kB."""
        self.bits = torch.zeros((capacity, MASK_WORDS), dtype=torch.int32, device=device)
        self._device = device
        self._rows: OrderedDict[Only | AllBut, int] = OrderedDict()

    def rows_of(self, masks: Sequence[Only | AllBut]) -> list[int]:
        """The row of each mask; new ones are sent to the device without waiting."""
        new: dict[int, Only | AllBut] = {}
        rows = []
        for mask in masks:
            row = self._rows.get(mask)
            if row is None:
                full = len(self._rows) == len(self.bits)
                row = self._rows.popitem(last=False)[1] if full else len(self._rows)
                self._rows[mask] = row
                new[row] = mask
            else:
                self._rows.move_to_end(mask)
            rows.append(row)
        places = list(new)
        for start in range(0, len(places), TOGETHER):
            part = places[start : start + TOGETHER]
            self._send(part, [new[row] for row in part])
        return rows

    def _send(self, rows: Sequence[int], masks: Sequence[Only | AllBut]) -> None:
        pinned = self._device.type == "cuda"
        # PyTorch does not hand pinned memory out again before the copies from it are done. One
        # line more than the masks, for the numbers of their rows.
        stage = torch.empty((TOGETHER + 1, MASK_WORDS), dtype=torch.int32, pin_memory=pinned)
        lines = stage.numpy()
        for line, mask in zip(lines, masks, strict=False):
            line[:] = words_of(mask)
        lines[TOGETHER, : len(rows)] = np.array(rows, dtype=np.int32)
        if len(rows) == 1:
            self.bits[rows[0]].copy_(stage[0], non_blocking=True)
            return
        sent = stage.to(self._device, non_blocking=True)
        self.bits.index_copy_(0, sent[TOGETHER, : len(rows)].long(), sent[: len(rows)])
