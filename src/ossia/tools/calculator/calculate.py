"""Runs the program of an expression, with more and more digits until the result is certain."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from fractions import Fraction

from ossia.tools.calculator.arithmetic import Arithmetic, Number
from ossia.tools.calculator.errors import CalculationError, TimeIsUp
from ossia.tools.calculator.functions import CONSTANTS, FUNCTIONS, OPERATORS
from ossia.tools.calculator.limits import MAX_LENGTH, PRECISIONS, Deadline, longest_operation
from ossia.tools.calculator.parser import Step, parse
from ossia.tools.calculator.show import show

TIME_LIMIT = 5.0  # seconds

_AGREEING_DIGITS = 25  # of two results at different precisions
_COMPARING = decimal.Context(prec=2 * _AGREEING_DIGITS, Emin=-2_000_000, traps=[])


def calculate(expression: str, seconds: float = TIME_LIMIT) -> str:
    """The result of the expression, as `show` writes it.

    Raises:
        CalculationError: the expression is wrong, has no result, or costs too much; its text is a
            sentence that says where.
        TimeIsUp: the same, when `seconds` were not enough.
    """
    if len(expression) > MAX_LENGTH:
        raise CalculationError(f"The expression has more than {MAX_LENGTH:,} characters")
    deadline = Deadline(seconds)
    try:
        return show(_value(parse(expression), deadline))
    except TimeIsUp:
        raise
    except CalculationError as error:
        raise error.located(expression) from None


def _value(program: Sequence[Step], deadline: Deadline) -> Number:
    """Its value: exact, or such that the digits that are shown do not depend on the precision.

    A. Ziv, Fast evaluation of elementary mathematical functions with correctly rounded last bit
    (1991), applied to a whole expression: cancellation shows as results that disagree.
    """
    last: Number | None = None
    value: Number | None = None
    for precision in PRECISIONS:
        deadline.check(longest_operation(precision))
        arithmetic = Arithmetic(precision, deadline)
        last, value = value, None
        try:
            value = _run(program, arithmetic)
        except TimeIsUp:
            raise
        except CalculationError:
            # More digits may show that it was rounding which made the error.
            if not arithmetic.rounded or precision == PRECISIONS[-1]:
                raise
            continue
        if not arithmetic.rounded:
            return value
        is_certain = value != 0 and not arithmetic.doubtful
        if is_certain and last is not None and _agree(last, value):
            return value
    if last is not None and value is not None:
        if _agree(last, value):
            return value
        if _vanishes(last, value):
            return Fraction(0)
    raise CalculationError("The result is infinite, or cannot be told from its approximations")


def _agree(a: Number, b: Number) -> bool:
    if isinstance(a, Fraction) or isinstance(b, Fraction):
        return type(a) is type(b) and a == b
    with decimal.localcontext(_COMPARING):
        return abs(a - b) <= abs(b).scaleb(-_AGREEING_DIGITS)


def _vanishes(a: Number, b: Number) -> bool:
    """Whether the number falls with the precision, as rounding errors do and others do not."""
    if isinstance(a, Fraction) or isinstance(b, Fraction):
        return a == b == 0
    with decimal.localcontext(_COMPARING):
        return abs(b) <= abs(a).scaleb(-_AGREEING_DIGITS)


def _run(program: Sequence[Step], arithmetic: Arithmetic) -> Number:
    stack: list[Number] = []
    with decimal.localcontext(arithmetic.context):
        for step in program:
            if not step.operation:
                stack.append(step.value)
                continue
            arguments = stack[len(stack) - step.arity :]
            del stack[len(stack) - step.arity :]
            stack.append(_apply(step, arithmetic, arguments))
    return stack[0]


def _apply(step: Step, arithmetic: Arithmetic, arguments: Sequence[Number]) -> Number:
    arithmetic.check_time()
    try:
        if step.operation in FUNCTIONS:
            return FUNCTIONS[step.operation].apply(arithmetic, *arguments)
        if step.operation in CONSTANTS:
            return CONSTANTS[step.operation](arithmetic)
        return OPERATORS[step.operation](arithmetic, *arguments)
    except CalculationError as error:
        if error.at is None:
            error.at = step.at
        raise
    except decimal.Overflow:
        raise CalculationError("The number becomes too large", step.at) from None
    except decimal.Underflow:
        raise CalculationError("The number becomes too close to zero", step.at) from None
    except decimal.InvalidOperation:
        raise CalculationError("The operation has no result here", step.at) from None
