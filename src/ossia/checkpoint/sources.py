"""Where the parts of a network come from: a checkpoint, a random generator, or another source
whose experts are packed or unpacked on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from ossia.checkpoint.device_dummy import device_dummy_part
from ossia.checkpoint.dummy import dummy_part
from ossia.checkpoint.parts import Part
from ossia.config import ModelConfig
from ossia.errors import CheckpointError
from ossia.mxfp4 import BLOCK, Mxfp4Tensor, quantise, unpack

_PACKED = ("blocks", "scales")
ExpertObserver = Callable[[Part, Tensor, Mxfp4Tensor], None]


class PartSource(Protocol):
    """Delivers the parts of one network."""

    @property
    def config(self) -> ModelConfig:
        """The geometry; `model_parts` of it are the parts there are."""

    def part(self, part: Part) -> Tensor:
        """One part in the orientation of `ModelWeights`, not always contiguous."""

    def dtype(self, part: Part) -> torch.dtype:
        """The dtype of a part, without reading it."""

    def describe(self, part: Part) -> str:
        """Where a part comes from, for messages to the user."""

    def release(self, part: Part) -> None:
        """Give back the memory of a part that was copied."""

    def close(self) -> None:
        """End whatever is under way; parts that were delivered stay."""


class DummySource:
    """Random parts; see `ossia.checkpoint.dummy` for those of the CPU, and `device_dummy`."""

    def __init__(self, config: ModelConfig, seed: int, device: torch.device | None = None) -> None:
        self.config = config
        self._seed = seed
        self._device = device

    def part(self, part: Part) -> Tensor:
        """A random part, the same for the same seed."""
        if self._device is None or self._device.type == "cpu":
            return dummy_part(part, self._seed)
        return device_dummy_part(part, self._seed, self._device)

    def dtype(self, part: Part) -> torch.dtype:
        """uint8 for packed parts, else bfloat16."""
        return torch.uint8 if part.kind in _PACKED else torch.bfloat16

    def describe(self, part: Part) -> str:
        """The name of the part, for want of a file."""
        return f"random tensor {part.name}"

    def release(self, part: Part) -> None:
        """Nothing to do: there is no file behind a random part."""

    def close(self) -> None:
        """Nothing to do."""


class PackingSource:
    """Packs the bfloat16 experts of another source to MXFP4, one expert at a time."""

    def __init__(
        self,
        inner: PartSource,
        observe: ExpertObserver = lambda part, expert, packed: None,
    ) -> None:
        """`observe` sees the part, each expert [rows, columns] and what it was packed to."""
        self.config = replace(inner.config, expert_format="mxfp4")
        self._inner = inner
        self._observe = observe
        self._scales: dict[str, Tensor] = {}  # made with the blocks, asked for after them

    def part(self, part: Part) -> Tensor:
        """Blocks and scales are computed; all else is passed on."""
        if part.kind == "scales":
            return self._scales.pop(part.name)
        if part.kind != "blocks":
            return self._inner.part(part)
        experts, rows, groups, _ = part.shape
        plain = _unpacked(part)
        values = self._inner.part(plain)
        blocks = torch.empty(part.shape, dtype=torch.uint8, device=values.device)
        scales = torch.empty((experts, rows, groups), dtype=torch.uint8, device=values.device)
        for i in range(experts):
            expert = values[i].contiguous()
            try:
                packed = quantise(expert)
            except ValueError as error:
                raise CheckpointError(
                    f"{self._inner.describe(plain)} cannot be packed: {error}"
                ) from error
            blocks[i], scales[i] = packed.blocks, packed.scales
            self._observe(plain, expert, packed)
        self._inner.release(plain)
        self._scales[f"{plain.name}.scales"] = scales
        return blocks

    def dtype(self, part: Part) -> torch.dtype:
        """uint8 for packed parts, else as it comes."""
        return torch.uint8 if part.kind in _PACKED else self._inner.dtype(part)

    def describe(self, part: Part) -> str:
        """Where the part, or what it is packed from, comes from."""
        return self._inner.describe(_unpacked(part) if part.kind in _PACKED else part)

    def release(self, part: Part) -> None:
        """Passed on, but for the packed parts, which have no file behind them."""
        if part.kind not in _PACKED:
            self._inner.release(part)

    def close(self) -> None:
        """Passed on."""
        self._inner.close()


class UnpackingSource:
    """Unpacks the MXFP4 experts of another source to bfloat16, one expert at a time."""

    def __init__(self, inner: PartSource) -> None:
        self.config = replace(inner.config, expert_format="bf16")
        self._inner = inner

    def part(self, part: Part) -> Tensor:
        """Experts are unpacked; all else is passed on."""
        if part.kind != "experts":
            return self._inner.part(part)
        blocks_part, scales_part = _packed_parts(part)
        blocks, scales = self._inner.part(blocks_part), self._inner.part(scales_part)
        values = torch.empty(part.shape, dtype=torch.bfloat16)
        for i in range(part.shape[0]):
            values[i] = unpack(Mxfp4Tensor(blocks[i], scales[i]), torch.bfloat16)
        self._inner.release(blocks_part)
        self._inner.release(scales_part)
        return values

    def dtype(self, part: Part) -> torch.dtype:
        """bfloat16 for experts, else as it comes."""
        return torch.bfloat16 if part.kind == "experts" else self._inner.dtype(part)

    def describe(self, part: Part) -> str:
        """Where the part, or what it is unpacked from, comes from."""
        return self._inner.describe(_packed_parts(part)[0] if part.kind == "experts" else part)

    def release(self, part: Part) -> None:
        """Passed on, but for the experts, which have no file behind them."""
        if part.kind != "experts":
            self._inner.release(part)

    def close(self) -> None:
        """Passed on."""
        self._inner.close()


def _unpacked(part: Part) -> Part:
    field = part.field.rsplit(".", 1)[0]
    shape = (*part.shape[:2], part.fan_in)
    return Part(part.layer, field, "experts", shape, part.fan_in)


def _packed_parts(part: Part) -> tuple[Part, Part]:
    experts, rows, columns = part.shape
    groups = (experts, rows, columns // BLOCK)
    return (
        Part(part.layer, f"{part.field}.blocks", "blocks", (*groups, BLOCK // 2), columns),
        Part(part.layer, f"{part.field}.scales", "scales", groups, columns),
    )
