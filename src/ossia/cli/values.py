"""Values as people type them on a command line: lengths, sizes, ranges, lists, names.

Every function is an argparse `type`: it takes the text and raises `ArgumentTypeError` with a
message that continues the sentence "--option ...".
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable

_BYTE_UNITS = {
    "": 1,
    "B": 1,
    "K": 2**10,
    "KIB": 2**10,
    "KB": 10**3,
    "M": 2**20,
    "MIB": 2**20,
    "MB": 10**6,
    "G": 2**30,
    "GIB": 2**30,
    "GB": 10**9,
    "T": 2**40,
    "TIB": 2**40,
    "TB": 10**12,
}


def token_count(text: str) -> int:
    """A number of tokens, at least 1: `131072`, `32k`; k means 1024."""
    match = re.fullmatch(r"(\d+)([kK]?)", text.strip())
    value = int(match[1]) * (1024 if match[2] else 1) if match else 0
    if value < 1:
        raise argparse.ArgumentTypeError(
            f"must be a number of tokens such as 131072 or 32k, not {text!r}"
        )
    return value


def byte_count(text: str) -> int:
    """A size in bytes, at least 1: `2GiB`, `1.5G`, `500MB`; K, M, G and T are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _BYTE_UNITS.get(match[2].upper()) if match else None
    value = int(float(match[1]) * unit) if match and unit else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a size such as 2GiB or 500MB, not {text!r}")
    return value


def whole_number(low: int, high: int | None = None) -> Callable[[str], int]:
    """A whole number from `low` to `high`, both included."""
    span = f"of {low} or more" if high is None else f"between {low} and {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be a whole number {span}, not {text!r}")
        return value

    return parse


def real_number(
    low: float, high: float = math.inf, *, low_open: bool = False
) -> Callable[[str], float]:
    """A finite number from `low` (left out if `low_open`) to `high`."""
    span = f"above {low:g}" if low_open else f"at least {low:g}"
    if high != math.inf:
        span += f" and at most {high:g}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        inside = (low < value if low_open else low <= value) and value <= high
        if not inside or math.isinf(value):
            raise argparse.ArgumentTypeError(f"must be a number {span}, not {text!r}")
        return value

    return parse


def choice(*names: str) -> Callable[[str], str]:
    """One of `names`, in any case."""

    def parse(text: str) -> str:
        for name in names:
            if text.lower() == name.lower():
                return name
        listed = f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]
        raise argparse.ArgumentTypeError(f"must be {listed}, not {text!r}")

    return parse


def counts(text: str) -> tuple[int, ...]:
    """Several counts of at least 1, separated by commas: `1,8,32`."""
    try:
        values = tuple(int(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or min(values) < 1:
        raise argparse.ArgumentTypeError(
            f"must be whole numbers of 1 or more such as 1,8,32, not {text!r}"
        )
    return values


def length_range(text: str) -> tuple[int, int]:
    """Lengths in tokens, both ends included: `128` or `64-256`."""
    low, _, high = text.partition("-")
    try:
        span = (token_count(low), token_count(high or low))
    except argparse.ArgumentTypeError:
        span = (1, 0)
    if span[0] > span[1]:
        raise argparse.ArgumentTypeError(
            f"must be a length such as 128 or a range such as 64-256, not {text!r}"
        )
    return span


def not_empty(text: str) -> str:
    """Any text with something in it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("must not be empty")
    return text


def server_url(text: str) -> str:
    """The address of a server, without the `/v1` that SDKs want and without a final slash."""
    if not re.match(r"https?://[^/]+", text):
        raise argparse.ArgumentTypeError(
            f"must be an address such as http://127.0.0.1:8000, not {text!r}"
        )
    return text.rstrip("/").removesuffix("/v1")
