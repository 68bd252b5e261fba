"""Into how many parts decoding sequences may be cut, and where the parts wait to be added up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FILL = 264  # programs: two for each of the 132 processors of an H100
MOST_PROGRAMS = 4 * FILL  # more cost time even when they have nothing to do
MOST_SPLITS = 32


@dataclass(frozen=True, slots=True)
class DecodeScratch:
    """Where parts of sequences wait to be added up. The layers of a model share one."""

    mixed: Tensor  # float32 [parts, kv_heads, group, head_dim]: sums of exp(s_j - m) v_j
    largest: Tensor  # float32 [parts, kv_heads, group]: m, in units of log 2
    total: Tensor  # float32 [parts, kv_heads, group]: sums of exp(s_j - m)
    arrived: Tensor  # int32 [sequences, kv_heads]: parts that are done; zero between launches
    most_splits: int
    pdl: bool  # launch as a programmatic dependent of the kernel before

    @staticmethod
    def allocate(
        sequences: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        device: torch.device,
        *,
        most_splits: int = MOST_SPLITS,
        pdl: bool | None = None,
    ) -> DecodeScratch:
        """Scratch for steps of up to `sequences` sequences.

        Args:
            sequences: the largest batch.
            heads, kv_heads, head_dim: geometry of the model.
            device: a CUDA device.
            most_splits: parts that a sequence is cut into at most.
            pdl: programmatic dependent launch; None: on for Hopper and later.
        """
        if pdl is None:
            pdl = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
        parts = max(sequences, min(sequences * most_splits, MOST_PROGRAMS // kv_heads))
        group = heads // kv_heads

        def floats(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=torch.float32, device=device)

        return DecodeScratch(
            mixed=floats(parts, kv_heads, group, head_dim),
            largest=floats(parts, kv_heads, group),
            total=floats(parts, kv_heads, group),
            arrived=torch.zeros(sequences, kv_heads, dtype=torch.int32, device=device),
            most_splits=most_splits,
            pdl=pdl,
        )

    def splits(self, sequences: int) -> int:
        """Parts a sequence may be cut into in a step of this many sequences, on full layers."""
        return _splits(sequences, self.arrived.shape[1], self.most_splits)


def _splits(sequences: int, kv_heads: int, most: int) -> int:
    return min(most, max(1, MOST_PROGRAMS // (sequences * kv_heads)))
