"""How results are written.

- Whole numbers and decimals of up to 50 digits are exact: `0.3`, `2.5e-30`.
- Other fractions are rounded to 16 digits, with the fraction if it is short:
  `0.3333333333333333 (1/3)`.
- Everything else is rounded to 16 digits: `1.414213562373095`, `1.970071114017047e+434`.
"""

from __future__ import annotations

import decimal
from decimal import Decimal

from ossia.tools.calculator.arithmetic import Number

DIGITS = 16  # that a rounded result is shown with

_MAX_EXACT_DIGITS = 50  # of a decimal that is not whole
_MAX_FRACTION_LENGTH = 40  # digits of numerator and denominator together
_MIN_PLAIN_EXPONENT = -6  # smaller numbers are written as 1e-7
_MAX_PLAIN_EXPONENT = 15  # larger rounded numbers are written as 1e+16


def show(number: Number) -> str:
    """The number as the model gets it."""
    if isinstance(number, Decimal):
        return _plain(_rounded(number))
    if number.denominator == 1:
        # By way of Decimal, since `str` refuses whole numbers of more than 4,300 digits.
        return format(Decimal(number.numerator), "f")
    exact = decimal.Context(prec=_MAX_EXACT_DIGITS, traps=[decimal.Inexact])
    try:
        return _plain(exact.divide(Decimal(number.numerator), Decimal(number.denominator)))
    except decimal.Inexact:
        pass
    rough = decimal.Context(prec=DIGITS)
    text = _plain(rough.divide(Decimal(number.numerator), Decimal(number.denominator)))
    fraction = f"{Decimal(number.numerator):f}/{Decimal(number.denominator):f}"
    return f"{text} ({fraction})" if len(fraction) <= _MAX_FRACTION_LENGTH else text


def _rounded(number: Decimal) -> Decimal:
    return decimal.Context(prec=DIGITS).plus(number)


def _plain(number: Decimal) -> str:
    if number == 0:
        return "0"
    digits = number.as_tuple().digits
    is_long = len(digits) > DIGITS
    if number.adjusted() < _MIN_PLAIN_EXPONENT or (
        number.adjusted() > _MAX_PLAIN_EXPONENT and not is_long
    ):
        text, _, exponent = f"{number:e}".partition("e")
        return f"{_trimmed(text)}e{exponent}"
    return _trimmed(f"{number:f}")


def _trimmed(text: str) -> str:
    return text.rstrip("0").rstrip(".") if "." in text else text
