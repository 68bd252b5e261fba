"""Rotary position embedding with YaRN (https://arxiv.org/abs/2309.00071, sections 3.2 to 3.4).

Dimension pair i turns by position * inv_freq[i]. Pairs that turn more than beta_fast times within
the original context keep their frequency, those that turn less than beta_slow times have it
divided by the factor, and those between are blended linearly.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ossia.config import RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Radians per position of each dimension pair, float32 [head_dim / 2]."""
    half = head_dim // 2
    frequencies = rope.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    extrapolated = 1.0 / frequencies
    if rope.factor <= 1.0:
        return extrapolated
    interpolated = 1.0 / (rope.factor * frequencies)
    low = _pair_turning(rope.beta_fast, rope, half)
    high = _pair_turning(rope.beta_slow, rope, half)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low if high != low else 0.001
    kept = 1 - ((torch.arange(half, dtype=torch.float32) - low) / width).clamp(0, 1)
    # In this order, which rounds as the model's training did: at position 100,000 one unit in the
    # last place of a frequency is 0.006 radians.
    return interpolated * (1 - kept) + extrapolated * kept


def _pair_turning(turns: float, rope: RopeConfig, half: int) -> float:
    """The (fractional) dimension pair that turns this often within the original context."""
    return half * math.log(rope.original_context / (turns * 2 * math.pi)) / math.log(rope.theta)


class RotaryEmbedding:
    """Cosines and sines for positions, computed when asked for: a few microseconds a step."""

    def __init__(self, rope: RopeConfig, head_dim: int, device: torch.device) -> None:
        self._inverse_frequencies = inverse_frequencies(rope, head_dim).to(device)
        self._attention_factor = rope.attention_factor

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos, sin: float32 [tokens, head_dim / 2], times YaRN's attention factor."""
        angles = positions.to(torch.float32).unsqueeze(-1) * self._inverse_frequencies
        return angles.cos() * self._attention_factor, angles.sin() * self._attention_factor

    def table(self, positions: int) -> Tensor:
        """What a call gives for positions 0 .. positions - 1, for kernels that look it up.

        Returns:
            float32 [positions, head_dim]: cosines of all pairs, then their sines.
        """
        every = torch.arange(positions, device=self._inverse_frequencies.device)
        return torch.cat(self(every), dim=-1)
