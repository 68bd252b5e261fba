"""Trigonometric functions of decimals, to the precision of the current decimal context."""

from __future__ import annotations

from decimal import Decimal, getcontext, localcontext

_GUARD = 10  # digits that are computed more, and rounded away


def pi() -> Decimal:
    """pi, by the algorithm of Gauss and Legendre (R. P. Brent and E. Salamin, 1976)."""
    with localcontext() as context:
        context.prec += _GUARD
        a, b = Decimal(1), 1 / Decimal(2).sqrt()
        t, power = Decimal("0.25"), 1
        while abs(a - b) > Decimal(1).scaleb(3 - context.prec):
            mean = (a + b) / 2
            b = (a * b).sqrt()
            t -= power * (a - mean) ** 2
            a, power = mean, 2 * power
        result = (a + b) ** 2 / (4 * t)
    return +result


def sin(x: Decimal) -> Decimal:
    """sin x, x in radians."""
    return _sine_after(x, 0)


def cos(x: Decimal) -> Decimal:
    """cos x, x in radians."""
    return _sine_after(x, 1)


def atan(x: Decimal) -> Decimal:
    """arctan x in radians, of -pi/2 to pi/2.

    Halved with atan x = 2 atan(x / (1 + sqrt(1 + x²))) until Taylor's series converges fast.
    """
    if x < 0:
        return -atan(-x)
    with localcontext() as context:
        context.prec += _GUARD
        if x > 1:
            result = pi() / 2 - atan(1 / x)
        else:
            doublings = 0
            while x > Decimal("0.05"):
                x = x / (1 + (1 + x * x).sqrt())
                doublings += 1
            result = _taylor_atan(x) * 2**doublings
    return +result


def _sine_after(x: Decimal, quarters: int) -> Decimal:
    """sin(x + quarters * pi/2), reduced to an angle of at most pi/4."""
    with localcontext() as context:
        context.prec += _GUARD + max(0, x.adjusted() + 1)
        quarter = pi() / 2
        turned = (x / quarter).to_integral_value()
        rest = x - turned * quarter
        quarters = (quarters + int(turned % 4)) % 4
        result = _taylor(rest, 1) if quarters in (0, 2) else _taylor(rest, 0)
        if quarters >= 2:
            result = -result
    return +result


def _taylor(x: Decimal, first: int) -> Decimal:
    """The sum of ± x^n / n! for n = first, first + 2, ...: 1 gives the sine, 0 the cosine."""
    term = total = x if first else Decimal(1)
    square = -x * x
    n = first
    while term and term.adjusted() >= total.adjusted() - getcontext().prec:
        term *= square / ((n + 1) * (n + 2))
        total += term
        n += 2
    return total


def _taylor_atan(x: Decimal) -> Decimal:
    """The sum of ± x^n / n for odd n."""
    power = total = x
    square = -x * x
    n = 1
    while power and power.adjusted() >= total.adjusted() - getcontext().prec:
        power *= square
        n += 2
        total += power / n
    return total
