"""Bounds of numbers, in a form that holds for what JSON readers make of the digits.

Readers round to the nearest double, and llguidance reads a bound of many digits less than exactly.
So bounds that are no whole numbers keep 12 digits, rounded to the inside. Next to an exclusive
bound numbers have at most 9 decimal places: 0.99999999999999999999 would be read as 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

from ossia.harmony.grammar.words import Unenforceable, is_number

LARGEST = 9 * 10**18  # whole numbers stay within 64 bits, and so are never endless
LARGEST_MULTIPLE = 10**15  # digits of a multiple must not be rounded away
MOST_STEPS = 500  # digits of a multipleOf, as a number: llguidance keeps that many remainders
LARGEST_STEP = 1_000  # the one above that which works as well
LARGEST_EXCLUSIVE = 10**6  # above, an exclusive bound becomes an inclusive one next to it
_FINEST = Decimal("1e-9")  # what numbers next to an exclusive bound are multiples of
DIGITS = 12  # of a bound that is no whole number
MOST_PLACES = 15  # after its point
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def numeric_keywords(raw: Mapping[str, Any], kinds: Sequence[str], alone: bool) -> dict[str, Any]:
    """minimum, maximum and multipleOf to write for a schema that allows these types.

    `alone`: the schema is not joined with others, which could have a multipleOf of their own.

    Raises:
        Unenforceable: a keyword that is no number.
    """
    if "number" not in kinds and "integer" not in kinds:
        return {}
    for keyword in BOUNDS:
        flag = keyword.startswith("exclusive") and isinstance(raw.get(keyword), bool)
        if keyword in raw and not is_number(raw[keyword]) and not flag:
            raise Unenforceable(keyword, "must be a number")
    multiple = _multiple(raw)
    given = multiple or any(keyword in raw for keyword in BOUNDS) or "format" in raw
    if "number" not in kinds:
        if not given and ("enum" in raw or "const" in raw):
            return {}
        return _whole(raw) | multiple
    if not given:
        return {}
    return _real(raw, LARGEST_MULTIPLE if multiple else LARGEST, alone) | multiple


def _multiple(raw: Mapping[str, Any]) -> dict[str, Any]:
    if "multipleOf" not in raw:
        return {}
    value = raw["multipleOf"]
    if not is_number(value) or value <= 0:
        raise Unenforceable("multipleOf", "must be a number above 0")
    exact = Decimal(repr(value) if value <= LARGEST_STEP else LARGEST_STEP + 1).normalize()
    places = max(0, -int(exact.as_tuple().exponent))
    steps = exact.scaleb(places)
    if places > 6 or (steps > MOST_STEPS and steps != LARGEST_STEP):
        raise Unenforceable(
            "multipleOf",
            f"can be enforced up to {MOST_STEPS}, or {LARGEST_STEP}, where digits after the point "
            "count as well, and are at most 6",
        )
    return {"multipleOf": int(value) if int(value) == value else value}


def _limits(raw: Mapping[str, Any]) -> list[tuple[str, float, bool]]:
    """(side, bound, exclusive) of every bound, also as draft 4 wrote them and by OpenAPI format."""
    limits: list[tuple[str, float, bool]] = []
    for side, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if side in raw:
            limits.append((side, raw[side], raw.get(exclusive) is True))
        if is_number(raw.get(exclusive)):
            limits.append((side, raw[exclusive], True))
    bits = {"int32": 31, "int64": 63}.get(str(raw.get("format")))
    if bits:
        limits += [("minimum", -(2**bits), False), ("maximum", 2**bits - 1, False)]
    return limits


def _whole(raw: Mapping[str, Any]) -> dict[str, Any]:
    low, high = -LARGEST, LARGEST
    for side, bound, exclusive in _limits(raw):
        if side == "minimum":
            low = max(low, math.floor(bound) + 1 if exclusive else math.ceil(bound))
        else:
            high = min(high, math.ceil(bound) - 1 if exclusive else math.floor(bound))
    low, high = min(low, 2 * LARGEST), max(high, -2 * LARGEST)  # within what a double can be
    return {"minimum": _double(low, up=True), "maximum": _double(high, up=False)}


def _double(bound: int, *, up: bool) -> int:
    """The whole double at `bound` or next to it on the inside."""
    double = int(float(bound))
    if up and double < bound:
        return int(math.nextafter(float(bound), math.inf))
    if not up and double > bound:
        return int(math.nextafter(float(bound), -math.inf))
    return double


def can_be_joined(multiples: Sequence[int | float]) -> bool:
    """Whether llguidance can keep all of these multipleOf at once: the multiples of all."""
    exact = [Fraction(str(value)) for value in multiples]
    common = math.lcm(*(value.denominator for value in exact))
    return math.lcm(*(int(value * common) for value in exact)) <= LARGEST_STEP


def _real(raw: Mapping[str, Any], largest: int, alone: bool) -> dict[str, Any]:
    low, high = (Decimal(-largest), False), (Decimal(largest), False)
    for side, bound, exclusive in _limits(raw):
        if side == "minimum":
            low = max(low, _inside(bound, exclusive, up=True))
        else:
            value, outside = _inside(bound, exclusive, up=False)
            high = min(high, (value, outside), key=lambda limit: (limit[0], not limit[1]))
    if high[0] - low[0] < 1 or not alone:
        # Within one whole number llguidance forgets that a bound is exclusive.
        low = (low[0] + _FINEST * low[1], False)
        high = (high[0] - _FINEST * high[1], False)
    keywords: dict[str, Any] = {
        "exclusiveMinimum" if low[1] else "minimum": _plain(low[0]),
        "exclusiveMaximum" if high[1] else "maximum": _plain(high[0]),
    }
    if low[1] or high[1]:
        keywords["multipleOf"] = float(_FINEST)
    return keywords


def _inside(bound: float, exclusive: bool, *, up: bool) -> tuple[Decimal, bool]:
    """The bound with few digits, and whether it is exclusive."""
    farthest = 4 * LARGEST  # where nothing is written any more
    bound = max(min(bound, farthest), -farthest)
    exact = Decimal(bound) if isinstance(bound, int) else Decimal(repr(bound))
    whole = exact == exact.to_integral_value() and abs(exact) <= 2**53
    value = exact
    if not whole:
        places = min(DIGITS - 1 - exact.adjusted(), MOST_PLACES)
        rounding = ROUND_CEILING if up else ROUND_FLOOR
        value = exact.quantize(Decimal(1).scaleb(-places), rounding)
    if not exclusive or value != exact:
        return value, False
    if abs(value) < LARGEST_EXCLUSIVE:
        return value, True
    step = Decimal(1).scaleb(max(value.adjusted() - DIGITS + 1, 0))
    return value + (step if up else -step), False


def _plain(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
