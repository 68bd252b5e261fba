"""Counter-based random numbers: a draw depends on a seed and a position, and on nothing else.

So the tokens of a seeded request do not depend on what else is in the batch, on preemption or on
how many draws were made before.
"""

from __future__ import annotations

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, odd


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits for draw `position` of the sequence `seed`.

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014), its
    state started from the mixed seed so that neighbouring seeds do not share a sequence.
    """
    return (_mix(_mix(seed + _GOLDEN) + _GOLDEN * (position + 1)) >> 11) * 2.0**-53


def derive_seed(seed: int, index: int) -> int:
    """The seed of child number `index` (a 64-bit integer)."""
    return _mix(_mix(seed ^ _GOLDEN) + _GOLDEN * (index + 1))


def _mix(value: int) -> int:
    z = value & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
