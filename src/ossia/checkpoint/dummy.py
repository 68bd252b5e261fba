"""Random weights of any geometry, without files: for tests of speed, memory and the whole way.

Every tensor has a generator of its own, seeded by the seed and the tensor's name, so the same
network comes out in whatever order and on whatever machine it is made on the CPU; a GPU makes the
same distribution from numbers of its own (`device_dummy.py`). Weights keep activations
near unit size: norms 1, embeddings N(0, 1), linears N(0, 1 / fan_in), biases N(0, 0.02^2), sinks
N(0, 1), packed experts uniform E2M1 codes under the two neighbouring scales that come closest to
the same variance (2^-8 and 2^-7 for the 2880 inputs of gpt-oss).
"""

from __future__ import annotations

import functools
import hashlib
import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ossia.checkpoint.parts import Part
from ossia.config import ModelConfig

GEOMETRIES = {
    "gpt-oss-20b": ModelConfig(),
    "gpt-oss-120b": ModelConfig(num_layers=36, num_experts=128),
}
_E2M1_MEAN_SQUARE = 8.5625  # of 0, 0.5, 1, 1.5, 2, 3, 4, 6, each as likely
_BIAS_STD = 0.02
_PIECE = 1 << 22  # bytes made at a time


def dummy_part(part: Part, seed: int) -> Tensor:
    """A random part: uint8 where experts are packed, else bfloat16."""
    generator = np.random.SFC64(part_seed(part.name, seed))
    if part.kind == "norm":
        return torch.ones(part.shape, dtype=torch.bfloat16)
    if part.kind == "blocks":
        return torch.from_numpy(_random_bytes(generator, math.prod(part.shape))).view(part.shape)
    if part.kind == "scales":
        codes = _random_bytes(generator, math.prod(part.shape))
        codes &= 1
        codes += low_scale(part.fan_in)
        return torch.from_numpy(codes).view(part.shape)
    return _normal(generator, part.shape, part_std(part))


def part_seed(name: str, seed: int) -> int:
    """128 bits that no other part and no other seed shares."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")


def part_std(part: Part) -> float:
    """Standard deviation of a part whose values are normal."""
    if part.kind in ("linear", "experts"):
        return 1.0 / math.sqrt(part.fan_in)
    return _BIAS_STD if part.kind == "bias" else 1.0


def low_scale(fan_in: int) -> int:
    """The E8M0 code of the lower scale: 2^(code - 127) <= 1 / (rms of E2M1 * sqrt(fan_in))."""
    return 127 + math.floor(-0.5 * math.log2(_E2M1_MEAN_SQUARE * fan_in))


def _random_bytes(generator: np.random.SFC64, count: int) -> npt.NDArray[np.uint8]:
    out = np.empty(count, dtype=np.uint8)
    for start in range(0, count, _PIECE):
        piece = out[start : start + _PIECE]
        words = np.asarray(generator.random_raw(-(-piece.size // 8)), dtype=np.uint64)
        piece[:] = words.view(np.uint8)[: piece.size]
    return out


def _normal(generator: np.random.SFC64, shape: tuple[int, ...], std: float) -> Tensor:
    """bfloat16 normals: 16 random bits choose one of 65536 equally likely quantiles."""
    count = math.prod(shape)
    table = (_normal_quantiles() * std).to(torch.bfloat16).view(torch.uint16).numpy()
    out = np.empty(count, dtype=np.uint16)
    for start in range(0, count, _PIECE):
        piece = out[start : start + _PIECE]
        indices = _random_bytes(generator, 2 * piece.size).view(np.uint16)
        piece[:] = table[indices]
    return torch.from_numpy(out).view(torch.bfloat16).view(shape)


@functools.cache
def _normal_quantiles() -> Tensor:
    steps = torch.arange(1 << 16, dtype=torch.float64)
    quantiles: Tensor = torch.special.ndtri((steps + 0.5) / (1 << 16))
    return quantiles
