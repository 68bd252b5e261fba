"""The names that an expression may use."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType

from ossia.tools.calculator import series
from ossia.tools.calculator.arithmetic import (
    Arithmetic,
    Number,
    check_digits,
    exact_root,
    too_long,
)
from ossia.tools.calculator.errors import CalculationError, NeedsDigits
from ossia.tools.calculator.limits import MAX_ANGLE_DIGITS, MAX_DIGITS

_MAX_ROOT = 10_000
_MAX_FLOAT = 10**300  # numbers whose logarithms are estimated in floating point


@dataclass(frozen=True, slots=True)
class Function:
    """A function, and how many arguments it takes."""

    apply: Callable[..., Number]  # of an Arithmetic and the arguments
    at_least: int = 1
    at_most: int | None = 1  # None: any number

    def arity_in_words(self) -> str:
        if self.at_most is None:
            return f"{self.at_least} or more arguments"
        if self.at_least < self.at_most:
            return f"{self.at_least} or {self.at_most} arguments"
        return "1 argument" if self.at_least == 1 else f"{self.at_least} arguments"


def _ceil(of: Arithmetic, x: Number) -> Number:
    return -of.floor(-x)


def _round(of: Arithmetic, x: Number, digits: Number = Fraction(0)) -> Number:
    """Halves go away from zero."""
    places = _whole(of, digits, "the digits of round")
    if abs(places) > MAX_DIGITS:
        raise CalculationError(f"round takes at most {MAX_DIGITS:,} digits")
    if isinstance(x, Decimal) and x.adjusted() + places > of.precision // 2:
        raise NeedsDigits("round is asked for more digits than the number is known to")
    scale = Fraction(10) ** places
    scaled = of.multiply(of.absolute(x), scale)
    rounded = of.floor(of.add(scaled, Fraction(1, 2))) / scale
    return -rounded if x < 0 else rounded


def _sqrt(of: Arithmetic, x: Number) -> Number:
    checked = of.not_negative(x)
    if checked is None:
        raise CalculationError("The square root of a negative number is not real")
    if isinstance(checked, Fraction):
        root = exact_root(checked, 2)
        if root is not None:
            return root
    return of.real(checked).sqrt()


def _cbrt(of: Arithmetic, x: Number) -> Number:
    return _root(of, x, Fraction(3))


def _root(of: Arithmetic, x: Number, n: Number) -> Number:
    degree = _whole(of, n, "the degree of root")
    if not 1 <= degree <= _MAX_ROOT:
        raise CalculationError(f"The degree of root must be 1 to {_MAX_ROOT:,}")
    if x < 0 and degree % 2:
        return -_root(of, -x, n)
    if degree == 2:
        return _sqrt(of, x)
    if x < 0:
        raise CalculationError("An even root of a negative number is not real")
    return of.power(x, Fraction(1, degree))


def _minimum(of: Arithmetic, *numbers: Number) -> Number:
    return functools.reduce(lambda a, b: b if of.is_less(b, a) else a, numbers)


def _maximum(of: Arithmetic, *numbers: Number) -> Number:
    return functools.reduce(lambda a, b: b if of.is_less(a, b) else a, numbers)


def _gcd(of: Arithmetic, *numbers: Number) -> Number:
    return Fraction(math.gcd(*(_whole(of, number, "gcd") for number in numbers)))


def _lcm(of: Arithmetic, *numbers: Number) -> Number:
    result: Number = Fraction(1)
    for number in numbers:
        result = of.kept(Fraction(math.lcm(int(result), _whole(of, number, "lcm"))))
    return result


def _exp(of: Arithmetic, x: Number) -> Number:
    return Fraction(1) if x == 0 else of.real(x).exp()


def _ln(of: Arithmetic, x: Number) -> Number:
    _check_logarithm(x)
    return Fraction(0) if x == 1 else of.real(x).ln()


def _log(of: Arithmetic, x: Number, base: Number | None = None) -> Number:
    if base is None:
        return _ln(of, x)
    _check_logarithm(x)
    _check_logarithm(base)
    if base == 1:
        raise CalculationError("There is no logarithm of base 1")
    if x == 1:
        return Fraction(0)
    quotient = of.real(x).ln() / of.real(base).ln()
    if isinstance(x, Fraction) and isinstance(base, Fraction):
        whole = int(quotient.to_integral_value())
        # The power of a fraction in lowest terms is so long at least; x must be as long.
        length = abs(whole) * (_length(base) - 1)
        if length <= _length(x) and base**whole == x:
            return Fraction(whole)
    return quotient


def _length(x: Fraction) -> int:
    """Bits of the longer of numerator and denominator."""
    return max(x.numerator.bit_length(), x.denominator.bit_length())


def _log2(of: Arithmetic, x: Number) -> Number:
    return _log(of, x, Fraction(2))


def _log10(of: Arithmetic, x: Number) -> Number:
    return _log(of, x, Fraction(10))


def _check_logarithm(x: Number) -> None:
    if x <= 0:
        raise CalculationError("A logarithm is only defined above 0")


def _sin(of: Arithmetic, x: Number) -> Number:
    return Fraction(0) if x == 0 else series.sin(_angle(of, x))


def _cos(of: Arithmetic, x: Number) -> Number:
    return Fraction(1) if x == 0 else series.cos(_angle(of, x))


def _tan(of: Arithmetic, x: Number) -> Number:
    return of.divide(_sin(of, x), _cos(of, x))


def _angle(of: Arithmetic, x: Number) -> Decimal:
    angle = of.real(x)
    if angle.adjusted() >= MAX_ANGLE_DIGITS:
        raise CalculationError(f"The angle has more than {MAX_ANGLE_DIGITS} digits")
    return angle


def _asin(of: Arithmetic, x: Number) -> Number:
    return _atan2(of, x, _other_leg(of, x, "asin"))


def _acos(of: Arithmetic, x: Number) -> Number:
    return _atan2(of, _other_leg(of, x, "acos"), x)


def _other_leg(of: Arithmetic, x: Number, name: str) -> Number:
    """sqrt(1 - x²)"""
    square = of.multiply(of.add(Fraction(1), x), of.subtract(Fraction(1), x))
    checked = of.not_negative(square)
    if checked is None:
        raise CalculationError(f"{name} is only defined from -1 to 1")
    return _sqrt(of, checked)


def _atan(of: Arithmetic, x: Number) -> Number:
    return Fraction(0) if x == 0 else series.atan(of.real(x))


def _atan2(of: Arithmetic, y: Number, x: Number) -> Number:
    """The angle of the point (x, y), above -pi and up to pi."""
    if x == 0:
        if y == 0:
            raise CalculationError("atan2(0, 0) is not defined")
        half = of.real(series.pi() / 2)
        return half if y > 0 else -half
    angle = _atan(of, of.divide(y, x))
    if x > 0:
        return angle
    turn = of.real(series.pi())
    return of.add(angle, turn if y >= 0 else -turn)


def _sinh(of: Arithmetic, x: Number) -> Number:
    if x == 0:
        return Fraction(0)
    power = of.real(x).exp()
    return (power - 1 / power) / 2


def _cosh(of: Arithmetic, x: Number) -> Number:
    if x == 0:
        return Fraction(1)
    power = of.real(x).exp()
    return (power + 1 / power) / 2


def _tanh(of: Arithmetic, x: Number) -> Number:
    if x == 0:
        return Fraction(0)
    if of.absolute(x) > 5 * of.precision:
        return of.real(Fraction(1 if x > 0 else -1))  # nearer than the precision tells
    power = (2 * of.real(x)).exp()
    return (power - 1) / (power + 1)


def _degrees(of: Arithmetic, x: Number) -> Number:
    return Fraction(0) if x == 0 else of.real(x) * 180 / series.pi()


def _radians(of: Arithmetic, x: Number) -> Number:
    return Fraction(0) if x == 0 else of.real(x) * series.pi() / 180


def _factorial(of: Arithmetic, x: Number) -> Number:
    n = _count(of, x, "factorial")
    check_digits(_log10_factorial(n))
    return Fraction(math.factorial(n))


def _comb(of: Arithmetic, a: Number, b: Number) -> Number:
    n, k = _count(of, a, "comb"), _count(of, b, "comb")
    k = min(k, n - k)
    if k < 0:
        return Fraction(0)
    _check_product(n, k, _log10_factorial(k))
    return of.kept(Fraction(math.comb(n, k)))


def _perm(of: Arithmetic, a: Number, b: Number | None = None) -> Number:
    n = _count(of, a, "perm")
    k = n if b is None else _count(of, b, "perm")
    if k > n:
        return Fraction(0)
    _check_product(n, k, 0.0)
    return of.kept(Fraction(math.perm(n, k)))


def _check_product(n: int, k: int, divisor: float) -> None:
    """Refuse n (n-1) ... (n-k+1) / 10^divisor if it is too long. k <= n."""
    if k > _MAX_FLOAT:
        raise too_long()
    if n < 10**15:
        check_digits(_log10_factorial(n) - _log10_factorial(n - k) - divisor)
    else:
        check_digits(k * math.log10(n) - divisor)


def _log10_factorial(n: int) -> float:
    if n > _MAX_FLOAT:
        raise too_long()
    return math.lgamma(n + 1) / math.log(10)


def _sum(of: Arithmetic, *numbers: Number) -> Number:
    return of.sum(numbers)


def _mean(of: Arithmetic, *numbers: Number) -> Number:
    return of.divide(of.sum(numbers), Fraction(len(numbers)))


def _median(of: Arithmetic, *numbers: Number) -> Number:
    def compare(a: Number, b: Number) -> int:
        return -1 if of.is_less(a, b) else int(of.is_less(b, a))

    ordered = sorted(numbers, key=functools.cmp_to_key(compare))
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return _mean(of, ordered[middle - 1], ordered[middle])


def _whole(of: Arithmetic, x: Number, taker: str) -> int:
    """x as a whole number, for what only takes such."""
    if isinstance(x, Decimal):
        near = of.near_whole(x)
        if near is not None:
            return int(near)
    elif x.denominator == 1:
        return x.numerator
    raise CalculationError(f"{taker[0].upper()}{taker[1:]} must be a whole number")


def _count(of: Arithmetic, x: Number, name: str) -> int:
    n = _whole(of, x, f"the argument of {name}")
    if n < 0:
        raise CalculationError(f"The argument of {name} must not be negative")
    return n


def _sum_with_percentage(of: Arithmetic, a: Number, b: Number) -> Number:
    _check_percentage(a, "+")
    return of.add(a, b)


def _difference_with_percentage(of: Arithmetic, a: Number, b: Number) -> Number:
    _check_percentage(a, "-")
    return of.subtract(a, b)


def _check_percentage(a: Number, sign: str) -> None:
    """Both readings of `1 + 15%` are the same, and of no other number."""
    if a != 1:
        raise CalculationError(
            f'"a {sign} b%" can be read in two ways; write a * (1 {sign} b%) or a {sign} (b%)'
        )


CONSTANTS: Mapping[str, Callable[[Arithmetic], Number]] = MappingProxyType(
    {
        "pi": lambda of: of.real(series.pi()),
        "tau": lambda of: of.real(2 * series.pi()),
        "e": lambda of: of.real(Decimal(1).exp()),
    }
)

OPERATORS: Mapping[str, Callable[..., Number]] = MappingProxyType(
    {
        "add": Arithmetic.add,
        "add_percentage": _sum_with_percentage,
        "subtract": Arithmetic.subtract,
        "subtract_percentage": _difference_with_percentage,
        "multiply": Arithmetic.multiply,
        "divide": Arithmetic.divide,
        "floor_divide": Arithmetic.floor_divide,
        "power": Arithmetic.power,
        "negative": Arithmetic.negative,
        "percent": lambda of, x: of.divide(x, Fraction(100)),
    }
)

FUNCTIONS: Mapping[str, Function] = MappingProxyType(
    {
        "abs": Function(Arithmetic.absolute),
        "acos": Function(_acos),
        "asin": Function(_asin),
        "atan": Function(_atan),
        "atan2": Function(_atan2, 2, 2),
        "cbrt": Function(_cbrt),
        "ceil": Function(_ceil),
        "comb": Function(_comb, 2, 2),
        "cos": Function(_cos),
        "cosh": Function(_cosh),
        "degrees": Function(_degrees),
        "exp": Function(_exp),
        "factorial": Function(_factorial),
        "floor": Function(Arithmetic.floor),
        "gcd": Function(_gcd, 1, None),
        "lcm": Function(_lcm, 1, None),
        "ln": Function(_ln),
        "log": Function(_log, 1, 2),
        "log10": Function(_log10),
        "log2": Function(_log2),
        "max": Function(_maximum, 1, None),
        "mean": Function(_mean, 1, None),
        "median": Function(_median, 1, None),
        "min": Function(_minimum, 1, None),
        "mod": Function(Arithmetic.mod, 2, 2),
        "perm": Function(_perm, 1, 2),
        "radians": Function(_radians),
        "root": Function(_root, 2, 2),
        "round": Function(_round, 1, 2),
        "sin": Function(_sin),
        "sinh": Function(_sinh),
        "sqrt": Function(_sqrt),
        "sum": Function(_sum, 1, None),
        "tan": Function(_tan),
        "tanh": Function(_tanh),
    }
)
