"""What can go wrong in a calculation, and how its place is told."""

from __future__ import annotations

from ossia.tools.tool import ToolError

_EXCERPT = 20  # characters of the expression that are quoted


class CalculationError(ToolError):
    """The expression is wrong, or has no result.

    Attributes:
        problem: a sentence without its full stop.
        at: where in the expression, in characters; None when not known yet.
    """

    def __init__(self, problem: str, at: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at

    def located(self, expression: str) -> CalculationError:
        """The same with a whole sentence that says where in the expression it is."""
        if self.at is None:
            sentence = f"{self.problem}."
        elif self.at >= len(expression):
            sentence = f"{self.problem}, at the end of the expression."
        else:
            excerpt = expression[self.at : self.at + _EXCERPT]
            if len(expression) > self.at + _EXCERPT:
                excerpt += "…"
            sentence = f"{self.problem}, at character {self.at + 1}: {excerpt}"
        located = CalculationError(self.problem, self.at)
        located.args = (sentence,)
        return located


class NeedsDigits(CalculationError):
    """A whole number that cannot be told from its approximation; more digits may help."""


class TimeIsUp(CalculationError):
    """The calculation takes longer than it may."""

    def __init__(self) -> None:
        super().__init__("The calculation takes too long; simplify the expression")
