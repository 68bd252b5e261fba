"""How much a calculation may cost; checked before the work is done."""

from __future__ import annotations

import time

from ossia.tools.calculator.errors import TimeIsUp

MAX_LENGTH = 10_000  # characters of an expression
MAX_NESTING = 50  # parentheses, calls and powers inside each other
MAX_DIGITS = 10_000  # of a whole number; longer ones are refused
MAX_FRACTION_DIGITS = 2_000  # of a denominator; fractions with longer ones are rounded
MAX_ANGLE_DIGITS = 200  # before the point, of the argument of a trigonometric function

# Digits with which an irrational expression is computed, until two of them agree.
PRECISIONS = (40, 80, 160, 320, 640)


class Deadline:
    """When a calculation must be over."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def check(self, ahead: float = 0.0) -> None:
        """Raises TimeIsUp unless `ahead` seconds are left; called before each operation."""
        if time.monotonic() + ahead > self._end:
            raise TimeIsUp


def longest_operation(precision: int) -> float:
    """About the seconds that the slowest operation takes at so many digits, a power."""
    return 2e-8 * precision**2
