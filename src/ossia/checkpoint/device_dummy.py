"""Random weights made on a GPU: the distribution of `ossia.checkpoint.dummy`, not its numbers.

A GPU makes the 13.8 GB of gpt-oss-20b in a fraction of a second with generators of its own, which
the CPU cannot repeat. As there, every tensor has a seed from the seed and its name, so the network
does not depend on the order in which it is made; it does depend on the kind of GPU and on the
version of torch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ossia.checkpoint.dummy import low_scale, part_seed, part_std
from ossia.checkpoint.parts import Part

_LEAST = -(1 << 63)


def device_dummy_part(part: Part, seed: int, device: torch.device) -> Tensor:
    """A random part on `device`: uint8 where experts are packed, else bfloat16."""
    generator = torch.Generator(device)
    generator.manual_seed(part_seed(part.name, seed) & ((1 << 63) - 1))
    if part.kind == "norm":
        return torch.ones(part.shape, dtype=torch.bfloat16, device=device)
    if part.kind == "blocks":
        return _random_bytes(part.shape, generator)
    if part.kind == "scales":
        return _random_bytes(part.shape, generator).bitwise_and_(1).add_(low_scale(part.fan_in))
    values = torch.empty(part.shape, dtype=torch.bfloat16, device=device)
    return values.normal_(0.0, part_std(part), generator=generator)


def _random_bytes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Every byte as likely; made eight at a time, of which the last few may be left over."""
    count = math.prod(shape)
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=generator.device)
    words.random_(_LEAST, None, generator=generator)  # None: the full range of 64 bits
    return words.view(torch.uint8)[:count].view(shape)
