"""From the text of an expression to its tokens."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from ossia.tools.calculator.errors import CalculationError
from ossia.tools.calculator.limits import MAX_DIGITS

Kind = Literal["number", "name", "sign", "superscript", "end"]

_SAME_SIGN = {"×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "−": "-", "–": "-"}  # noqa: RUF001
_SAME_SIGN |= {"**": "^"}
_SAME_NAME = {"π": "pi", "τ": "tau"}
_SUPERSCRIPTS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")

_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_SIGNS = "|".join(map(re.escape, ["//", *_SAME_SIGN, *"-+*/%^!(),[]√°"]))
_TOKEN = re.compile(
    rf"""
    (?P<space>\s+)
    | (?P<number>(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?[0-9]+)?)
    | (?P<name>(?:math\.)?[A-Za-z][A-Za-z0-9_]*|[πτ])
    | (?P<superscript>[⁺⁻]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)
    | (?P<sign>{_SIGNS})
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Token:
    """One token; `text` is the same for signs and names that mean the same."""

    kind: Kind
    text: str
    at: int  # characters from the start of the expression
    spaced: bool = False  # whether there is space before it
    value: Fraction = Fraction(0)  # of a number or superscript


def tokens(expression: str) -> list[Token]:
    """The tokens of an expression, with one of the kind `end` behind them.

    Raises:
        CalculationError: a character that no token begins with, or a number that is too long.
    """
    found = list(_read(expression))
    _refuse_thousands(found)
    return found


def _read(expression: str) -> Iterator[Token]:
    at = 0
    spaced = False
    while at < len(expression):
        match = _TOKEN.match(expression, at)
        if match is None:
            raise CalculationError(f'"{expression[at]}" is not understood', at)
        text = match.group()
        start, at = at, match.end()
        match match.lastgroup:
            case "number":
                yield Token("number", text, start, spaced, _number(text, start))
            case "superscript":
                value = _number(text.translate(_SUPERSCRIPTS), start)
                yield Token("superscript", text, start, spaced, value)
            case "name":
                name = text.lower().removeprefix("math.")
                yield Token("name", _SAME_NAME.get(name, name), start, spaced)
            case "sign":
                yield Token("sign", _SAME_SIGN.get(text, text), start, spaced)
        spaced = match.lastgroup == "space"
    yield Token("end", "", len(expression), spaced)


def _number(text: str, at: int) -> Fraction:
    digits, _, exponent = text.lower().replace("_", "").partition("e")
    # Checked before the number is made, which takes the memory of all its digits.
    if len(exponent) > 7 or len(digits) + abs(int(exponent or 0)) > MAX_DIGITS:
        raise CalculationError(f"The number has more than {MAX_DIGITS:,} digits", at)
    # By way of Decimal, since `int` refuses texts of more than 4,300 digits.
    return Fraction(Decimal(digits)) * Fraction(10) ** int(exponent or 0)


def _refuse_thousands(found: list[Token]) -> None:
    """Refuse `max(1,050)` and `sum(1,234, 5,678)`, which hardly mean what they say."""
    spaced_comma = any(
        token.text == "," and following.spaced for token, following in itertools.pairwise(found)
    )
    for before, comma, group in zip(found, found[1:], found[2:], strict=False):
        if (
            comma.text == ","
            and not (comma.spaced or group.spaced)
            and before.text.isdecimal()
            and len(before.text) <= 3
            and re.match(r"[0-9]{3}(?![0-9])", group.text)
            and (spaced_comma or group.text.startswith("0"))
        ):
            raise CalculationError(
                f"{before.text},{group.text} looks like one number; write "
                f"{before.text}{group.text}, or a space behind each comma between arguments",
                before.at,
            )
