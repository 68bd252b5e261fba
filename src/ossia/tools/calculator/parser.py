"""From tokens to a program for a stack machine, by precedence climbing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

from ossia.tools.calculator.errors import CalculationError
from ossia.tools.calculator.functions import CONSTANTS, FUNCTIONS
from ossia.tools.calculator.limits import MAX_NESTING
from ossia.tools.calculator.tokens import Token, tokens

# Sign -> (how tight it binds, operation). `^` binds tighter, from the right, and is apart.
_BINARY = {
    "+": (1, "add"),
    "-": (1, "subtract"),
    "*": (2, "multiply"),
    "/": (2, "divide"),
    "//": (2, "floor_divide"),
    "%": (2, "mod"),
    "mod": (2, "mod"),
}
_DIVISIONS = ("/", "//", "%", "mod")
_INFIX_WORDS = ("mod", "of")


@dataclass(frozen=True, slots=True)
class Step:
    """Push a value, or apply an operation to the last `arity` values of the stack."""

    operation: str  # "" pushes `value`
    arity: int
    at: int  # where in the expression, in characters
    value: Fraction = Fraction(0)


def parse(expression: str) -> tuple[Step, ...]:
    """The program that computes the expression; a stack machine runs it, so nothing nests.

    Raises:
        CalculationError: the expression is not of the grammar; says where.
    """
    return _Parser(expression).program()


class _Parser:
    """Methods named after the rules of the grammar; each emits the steps of what it reads."""

    def __init__(self, expression: str) -> None:
        self._tokens = tokens(expression)
        self._position = 0
        self._nesting = 0
        self._steps: list[Step] = []

    def program(self) -> tuple[Step, ...]:
        self._expression(1)
        if self._next.text == ",":
            raise CalculationError(
                "A comma only separates the arguments of a function; write numbers without "
                "thousands separators",
                self._next.at,
            )
        if self._next.kind != "end":
            raise self._missing_operator()
        return tuple(self._steps)

    @property
    def _next(self) -> Token:
        return self._tokens[self._position]

    @property
    def _last(self) -> Token:
        return self._tokens[self._position - 1]

    def _take(self) -> Token:
        token = self._next
        self._position += 1
        return token

    def _emit(self, operation: str, arity: int, at: int) -> None:
        self._steps.append(Step(operation, arity, at))

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._nesting += 1
        if self._nesting > MAX_NESTING:
            raise CalculationError(f"More than {MAX_NESTING} levels of nesting", self._next.at)
        yield
        self._nesting -= 1

    def _expression(self, level: int, divides: bool = False) -> bool:
        """What binds at least as tight as `level`; whether it is a bare percentage.

        `divides`: it stands behind a division sign.
        """
        percentage = self._signed(divides)
        while self._next.kind in ("sign", "name") and self._next.text in _BINARY:
            tightness, operation = _BINARY[self._next.text]
            if tightness < level:
                break
            sign = self._take()
            right = self._expression(tightness + 1, divides=sign.text in _DIVISIONS)
            if tightness == 1 and right and not percentage:
                operation += "_percentage"
            self._emit(operation, 2, sign.at)
            percentage = tightness == 1 and percentage and right
        return percentage

    def _signed(self, divides: bool = False) -> bool:
        sign = self._signs()
        percentage = self._product(divides)
        if sign is not None:
            self._emit("negative", 1, sign.at)
        return percentage

    def _signs(self) -> Token | None:
        """Skip signs; the last minus of them, if they are negative together."""
        minus = None
        while self._next.text in ("+", "-"):
            token = self._take()
            if token.text == "-":
                minus = token if minus is None else None
        return minus

    def _product(self, divides: bool) -> bool:
        start = self._position
        percentage = self._power()
        while self._begins_factor(self._next):
            if self._last.kind != "number" and self._last.text != ")":
                raise self._missing_operator()
            factors = self._tokens[start : self._position]
            if divides or any(token.text in ("^", "√") for token in _outside(factors)):
                raise CalculationError(
                    "A multiplication without a sign can be read in two ways here; write * and "
                    "parentheses",
                    self._next.at,
                )
            at = self._next.at
            self._power()
            self._emit("multiply", 2, at)
            percentage = False
        return percentage

    @staticmethod
    def _begins_factor(token: Token) -> bool:
        return token.text in ("(", "√") or (token.kind == "name" and token.text not in _INFIX_WORDS)

    def _power(self) -> bool:
        percentage = self._postfix()
        if self._next.text != "^":
            return percentage
        sign = self._take()
        with self._deeper():
            minus = self._signs()
            self._power()
        if minus is not None:
            self._emit("negative", 1, minus.at)
        self._emit("power", 2, sign.at)
        return False

    def _postfix(self) -> bool:
        self._primary()
        percentage = False
        while True:
            token = self._next
            if token.text == "!":
                if self._last.text == "!":
                    raise CalculationError("Write (n!)! or a product instead of n!!", token.at)
                self._emit("factorial", 1, self._take().at)
            elif token.text == "°":
                self._emit("radians", 1, self._take().at)
            elif token.kind == "superscript":
                self._take()
                self._steps.append(Step("", 0, token.at, token.value))
                self._emit("power", 2, token.at)
            elif token.text == "%" and self._is_percentage():
                self._emit("percent", 1, self._take().at)
                percentage = True
                if self._next.text == "of":
                    of = self._take()
                    with self._deeper():
                        self._signed()
                    self._emit("multiply", 2, of.at)
                    return False
                continue
            else:
                return percentage
            percentage = False

    def _is_percentage(self) -> bool:
        """Whether the `%` that comes next has no operand behind it."""
        sign, behind = self._next, self._tokens[self._position + 1]
        if behind.text in ("+", "-") and sign.spaced:
            raise CalculationError(
                'A "%" before a sign can be read in two ways; write a % (-b) for a remainder and '
                "(a%) - b for a percentage",
                sign.at,
            )
        is_operand = behind.kind == "number" or self._begins_factor(behind)
        return not is_operand

    def _primary(self) -> None:
        token = self._take()
        if token.kind == "number":
            self._steps.append(Step("", 0, token.at, token.value))
        elif token.text == "(":
            with self._deeper():
                self._expression(1)
            self._close(")", token)
        elif token.text == "√":
            with self._deeper():
                self._primary()
            self._emit("sqrt", 1, token.at)
        elif token.kind == "name":
            self._named(token)
        elif token.kind == "end":
            raise CalculationError("A number is missing", token.at)
        else:
            raise CalculationError(f'A number was expected instead of "{token.text}"', token.at)

    def _named(self, name: Token) -> None:
        if name.text in CONSTANTS:
            if self._next.text == "(":
                raise CalculationError(f"{name.text} is a constant and takes no arguments", name.at)
            self._emit(name.text, 0, name.at)
            return
        function = FUNCTIONS.get(name.text)
        if function is None:
            raise CalculationError(_unknown(name.text), name.at)
        if self._next.text != "(":
            raise CalculationError(f"{name.text} takes its arguments in parentheses", name.at)
        opening = self._take()
        count = self._arguments(opening)
        if not function.at_least <= count <= (function.at_most or count):
            raise CalculationError(
                f"{name.text} takes {function.arity_in_words()}, not {count}", name.at
            )
        self._emit(name.text, count, name.at)

    def _arguments(self, opening: Token) -> int:
        bracket = self._take() if self._next.text == "[" else None
        count = 0
        if self._next.text not in (")", "]"):
            with self._deeper():
                self._expression(1)
                count = 1
                while self._next.text == ",":
                    self._take()
                    self._expression(1)
                    count += 1
        if bracket is not None:
            self._close("]", bracket)
        self._close(")", opening)
        return count

    def _close(self, text: str, opening: Token) -> None:
        token = self._next
        if token.text == text:
            self._take()
        elif token.kind == "end":
            raise CalculationError(f'The "{opening.text}" is never closed', opening.at)
        elif token.text == ",":
            raise CalculationError(
                "A comma only separates the arguments of a function; write numbers without "
                "thousands separators",
                token.at,
            )
        else:
            raise self._missing_operator()

    def _missing_operator(self) -> CalculationError:
        token = self._next
        if token.text in (")", "]"):
            return CalculationError(f'This "{token.text}" was never opened', token.at)
        return CalculationError(f'An operator is missing before "{token.text}"', token.at)


def _outside(factors: list[Token]) -> Iterator[Token]:
    """The tokens that are not inside of parentheses."""
    depth = 0
    for token in factors:
        depth -= token.text == ")"
        if depth == 0:
            yield token
        depth += token.text == "("


def _unknown(name: str) -> str:
    known = sorted([*FUNCTIONS, *CONSTANTS])
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f'"{name}" is not known; {hint}'.removesuffix("?")
