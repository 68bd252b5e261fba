"""Arithmetic of exact fractions and of decimals of one precision, with bounds on their size."""

from __future__ import annotations

import decimal
import math
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction

from ossia.tools.calculator.errors import CalculationError, NeedsDigits
from ossia.tools.calculator.limits import (
    MAX_DIGITS,
    MAX_FRACTION_DIGITS,
    Deadline,
    longest_operation,
)

Number = Fraction | Decimal  # exact | rounded to the precision of the calculation

_LOG10_2 = math.log10(2)
_GUARD = 10  # digits that are computed more than are relied on
_MAX_EXPONENT = 999_999  # of a rounded number


class Arithmetic:
    """Operations at one precision. To be used within `context`.

    Attributes:
        precision: digits that a rounded number has.
        rounded: whether any number so far is not exact.
        doubtful: whether a rounded number was taken for the whole number next to it, so that only
            more digits can tell whether it is one.
    """

    def __init__(self, precision: int, deadline: Deadline) -> None:
        self.precision = precision
        self.rounded = False
        self.doubtful = False
        self._deadline = deadline
        self._longest = longest_operation(precision)
        self.context = decimal.Context(
            prec=precision + _GUARD,
            rounding=decimal.ROUND_HALF_EVEN,
            Emin=-_MAX_EXPONENT,
            Emax=_MAX_EXPONENT,
            traps=[
                decimal.InvalidOperation,
                decimal.DivisionByZero,
                decimal.Overflow,
                decimal.Underflow,
            ],
        )

    def check_time(self) -> None:
        """Raises TimeIsUp unless there is time for one more operation."""
        self._deadline.check(self._longest if self.rounded else 0.0)

    def real(self, x: Number) -> Decimal:
        """x as a decimal, rounded to the precision."""
        self.rounded = True
        if isinstance(x, Decimal):
            return x
        return Decimal(x.numerator) / Decimal(x.denominator)

    def add(self, a: Number, b: Number) -> Number:
        self.check_time()
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.kept(a + b)
        return self.real(a) + self.real(b)

    def negative(self, x: Number) -> Number:
        return -x

    def absolute(self, x: Number) -> Number:
        return x if x >= 0 else -x

    def subtract(self, a: Number, b: Number) -> Number:
        return self.add(a, -b)

    def multiply(self, a: Number, b: Number) -> Number:
        self.check_time()
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.kept(a * b)
        return self.real(a) * self.real(b)

    def divide(self, a: Number, b: Number) -> Number:
        self.check_time()
        if b == 0:
            raise CalculationError("Division by zero")
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return self.kept(a / b)
        return self.real(a) / self.real(b)

    def floor_divide(self, a: Number, b: Number) -> Number:
        if isinstance(a, Fraction) and isinstance(b, Fraction) and b != 0:
            return self.kept(Fraction(a // b))  # never long in between
        return self.floor(self.divide(a, b))

    def mod(self, a: Number, b: Number) -> Number:
        """a - b * floor(a / b)."""
        if isinstance(a, Fraction) and isinstance(b, Fraction) and b != 0:
            return self.kept(a % b)
        return self.subtract(a, self.multiply(b, self.floor_divide(a, b)))

    def power(self, x: Number, y: Number) -> Number:
        """x^y; exact where x is and y is whole, or where the root is a fraction (8^(1/3))."""
        self.check_time()
        if x == 0:
            return self._power_of_zero(y)
        if isinstance(x, Fraction) and isinstance(y, Fraction):
            base = exact_root(x, y.denominator)
            if base is not None and self._fits(base, y.numerator):
                return self.kept(base**y.numerator)
        if x < 0 and not (isinstance(y, Fraction) and y.denominator == 1):
            raise CalculationError(
                "A power of a negative number with an exponent that is not whole is not real; "
                "cbrt(x) and root(x, n) give real roots"
            )
        return self.real(x) ** self.real(y)

    @staticmethod
    def _power_of_zero(y: Number) -> Number:
        if y < 0:
            raise CalculationError("Division by zero: a negative power of 0")
        return Fraction(y == 0)

    @staticmethod
    def _fits(base: Fraction, exponent: int) -> bool:
        """Whether base^exponent may be computed exactly; whole numbers are, or are refused."""
        size = max(abs(base.numerator), base.denominator)
        digits = abs(exponent) * math.log2(size) * _LOG10_2 if exponent.bit_length() < 1000 else 0.0
        if size == 1:
            return True
        if base.denominator == 1 and exponent > 0:
            if exponent.bit_length() >= 1000:
                raise too_long()
            check_digits(digits)
            return True
        return exponent.bit_length() < 1000 and digits <= MAX_FRACTION_DIGITS

    def floor(self, x: Number) -> Fraction:
        """The largest whole number that is not above x."""
        if isinstance(x, Fraction):
            return Fraction(math.floor(x))
        near = self.near_whole(x)
        return near if near is not None else Fraction(math.floor(x))

    def near_whole(self, x: Decimal) -> Fraction | None:
        """The whole number that x is as far as can be told.

        Raises:
            NeedsDigits: x is too large for its digits to tell.
        """
        if x.adjusted() > self.precision // 2:
            raise NeedsDigits("The number is too large to be rounded to a whole number")
        whole = x.to_integral_value()
        if abs(x - whole) > Decimal(1).scaleb(-self.precision // 2):
            return None
        self.doubtful = True
        return Fraction(whole)

    def not_negative(self, x: Number) -> Number | None:
        """x, 0 for what is 0 as far as can be told, or None if x is negative."""
        if x >= 0:
            return x
        if isinstance(x, Decimal) and x.adjusted() < -self.precision // 2:
            self.doubtful = True
            return Fraction(0)
        return None

    def is_less(self, a: Number, b: Number) -> bool:
        if isinstance(a, Fraction) and isinstance(b, Fraction):
            return a < b
        return self.real(a) < self.real(b)

    def sum(self, numbers: Iterable[Number]) -> Number:
        total: Number = Fraction(0)
        for number in numbers:
            total = self.add(total, number)
        return total

    def kept(self, x: Fraction) -> Number:
        """x if its size allows; else rounded, or refused if it is a whole number.

        Raises:
            CalculationError: a whole number of more than MAX_DIGITS digits.
        """
        if x.denominator == 1:
            check_digits(x.numerator.bit_length() * _LOG10_2)
            return x
        is_short = (
            x.denominator.bit_length() * _LOG10_2 <= MAX_FRACTION_DIGITS
            and x.numerator.bit_length() * _LOG10_2 <= MAX_DIGITS
        )
        return x if is_short else self.real(x)


def too_long() -> CalculationError:
    """For a whole number whose digits cannot even be counted."""
    return CalculationError(f"The result would have more than the {MAX_DIGITS:,} digits allowed")


def check_digits(digits: float) -> None:
    """Refuse a whole number of about that many digits, if they are too many."""
    if not math.isfinite(digits) or digits > 1e15:
        raise too_long()
    if digits > MAX_DIGITS:
        raise CalculationError(
            f"The result would have about {math.ceil(digits):,} digits; at most {MAX_DIGITS:,} "
            "are possible"
        )


def exact_root(x: Fraction, n: int) -> Fraction | None:
    """The n-th root of x if it is a fraction; None otherwise, and for even roots below 0."""
    if n == 1:
        return x
    if x < 0:
        return None
    numerator = _whole_root(x.numerator, n)
    denominator = _whole_root(x.denominator, n)
    if numerator is None or denominator is None:
        return None
    return Fraction(numerator, denominator)


def _whole_root(x: int, n: int) -> int | None:
    if x in (0, 1):
        return x
    if n >= x.bit_length():
        return None  # the root would be between 1 and 2
    if n == 2:
        root = math.isqrt(x)
        return root if root * root == x else None
    # Newton's method in whole numbers falls from above onto the root's floor.
    root = 1 << -(-x.bit_length() // n)
    while (step := ((n - 1) * root + x // root ** (n - 1)) // n) < root:
        root = step
    return root if root**n == x else None
