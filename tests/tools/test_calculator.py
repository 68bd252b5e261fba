"""The calculator is exact, understands what people write, and refuses what costs too much."""

from __future__ import annotations

import asyncio
import math
import operator
import statistics
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.calculator import Calculator, calculate
from ossia.tools.calculator.errors import CalculationError, TimeIsUp
from ossia.tools.calculator.functions import CONSTANTS, FUNCTIONS
from ossia.tools.calculator.limits import MAX_LENGTH, MAX_NESTING
from ossia.tools.tool import CallContext, ToolError, ToolOutput

CONTEXT = CallContext("conversation")


@st.composite
def exact_expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, Fraction]:
    """An expression in full parentheses, and its value by Python's own fractions."""
    kind = (
        draw(st.sampled_from(["number", "+", "-", "*", "/", "//", "%", "^", "minus"]))
        if depth
        else "number"
    )
    if kind == "number":
        number = draw(st.decimals(0, 10**6, places=draw(st.integers(0, 4))))
        return f"{number:f}", Fraction(number)
    left, a = draw(exact_expressions(depth - 1))
    if kind == "minus":
        return f"-({left})", -a
    if kind == "^":
        exponent = draw(st.integers(-3 if a else 0, 4))
        return f"({left})^({exponent})", a**exponent
    right, b = draw(exact_expressions(depth - 1))
    if kind in ("/", "//", "%") and b == 0:
        right, b = "3", Fraction(3)
    apply = {
        "+": operator.add,
        "-": operator.sub,
        "*": operator.mul,
        "/": operator.truediv,
        "//": lambda x, y: Fraction(x // y),
        "%": operator.mod,
    }[kind]
    return f"({left}) {kind} ({right})", apply(a, b)


@given(exact_expressions())
def test_fractions_are_exact(pair: tuple[str, Fraction]) -> None:
    expression, value = pair
    # The difference would show any digit that was lost.
    assert calculate(f"({expression}) - ({value.numerator}/{value.denominator})") == "0"


@given(st.lists(st.tuples(st.sampled_from(["+", "-", "*", "//", "%", "**"]), st.integers(1, 9))))
def test_operators_bind_as_in_python(tail: list[tuple[str, int]]) -> None:
    powers = 0
    expression = "7"
    for sign, number in tail:
        powers = powers + 1 if sign == "**" else 0
        if powers < 2:  # towers of powers are refused for their size
            expression += f" {sign} {number}"
    assert calculate(expression) == str(eval(expression))


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.3333333333333333 (1/3)"),
        ("2/3 + 1/3", "1"),
        ("1/8", "0.125"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("17 mod 5", "2"),
        ("-2^2", "-4"),
        ("2^3^2", "512"),
        ("2^-1", "0.5"),
        ("2--3", "5"),
        ("-(-3)", "3"),
        ("3!^2", "36"),
        ("2^3!", "64"),
        ("0^0", "1"),
        ("1_000_000 * 2", "2000000"),
        ("1.5e3 + 2E-1", "1500.2"),
        (".5 + 1.", "1.5"),
        ("1e-50", "1e-50"),
        ("10^20 + 0.5", "100000000000000000000.5"),
        ("round(2.675, 2)", "2.68"),
        ("round(-2.5)", "-3"),
        ("round(1234, -2)", "1200"),
        ("round(pi, 45)", "3.141592653589793238462643383279502884197169399"),
        ("ceil(-1.5)", "-1"),
        ("8^(1/3)", "2"),
        ("(4/9)^0.5", "0.6666666666666667 (2/3)"),
        ("cbrt(-27)", "-3"),
        ("root(1/16, 4)", "0.5"),
        ("log(8, 2)", "3"),
        ("log10(1/1000)", "-3"),
        ("gcd(12, 18, 27)", "3"),
        ("lcm(4, 6, 10)", "60"),
        ("comb(52, 5)", "2598960"),
        ("perm(5, 2)", "20"),
        ("perm(5)", "120"),
        ("mean([1, 2, 4])", "2.333333333333333 (7/3)"),
        ("median(3, 1, 2, 10)", "2.5"),
        ("min(pi, 3) + max(1/3, 2)", "5"),
        ("math.sqrt(16) + SQRT(9)", "7"),
        ("exp(0) + ln(1) + sin(0)", "1"),
    ],
)
def test_results(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("15%", "0.15"),
        ("15% of 80", "12"),
        ("100 + 15% of 80 / 2", "106"),
        ("100 / 50% of 4", "50"),
        ("80 * 15%", "12"),
        ("50% - 3", "-2.5"),
        ("10% + 5%", "0.15"),
        ("5000 * (1 + 7%)", "5350"),
        ("1 - 20%", "0.8"),
        ("10 % 4", "2"),
        ("10 % (4)", "2"),
        ("200 + (15%)", "200.15"),
    ],
)
def test_percentages(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "plain"),
    [
        ("6 × 7 ÷ 2 − 1", "6*7/2-1"),  # noqa: RUF001
        ("3² + 2³", "3^2+2^3"),
        ("10⁻³", "0.001"),
        ("√16 + √(9) + √√16", "4+3+2"),
        ("2π + τ", "4*pi"),
        ("sin(30°)", "0.5"),
        ("2pi", "2*pi"),
        ("2(3+4)", "14"),
        ("(1+2)(3+4)", "21"),
        ("2sqrt(9)", "6"),
        ("3e", "3*e"),
        ("2pi^2", "2*(pi^2)"),
    ],
)
def test_ways_of_writing(expression: str, plain: str) -> None:
    assert calculate(expression) == calculate(plain)


def _floats() -> st.SearchStrategy[float]:
    return st.floats(-20, 20, allow_subnormal=False).filter(lambda x: abs(x) > 1e-3)


@pytest.mark.parametrize(
    "name",
    ["exp", "sin", "cos", "tan", "atan", "sinh", "cosh", "tanh", "degrees", "radians", "cbrt"],
)
@given(x=_floats())
def test_functions_agree_with_floating_point(name: str, x: float) -> None:
    assert _value(f"{name}({_exactly(x)})") == pytest.approx(
        getattr(math, name)(x), rel=1e-13, abs=1e-15
    )


@pytest.mark.parametrize("name", ["ln", "log2", "log10", "sqrt"])
@given(x=st.floats(1e-9, 1e9))
def test_functions_of_positive_numbers_agree_with_floating_point(name: str, x: float) -> None:
    expected = getattr(math, "log" if name == "ln" else name)(x)
    assert _value(f"{name}({_exactly(x)})") == pytest.approx(expected, rel=1e-14, abs=1e-14)


@pytest.mark.parametrize("name", ["asin", "acos"])
@given(x=st.floats(-1, 1))
def test_inverse_functions_agree_with_floating_point(name: str, x: float) -> None:
    assert _value(f"{name}({_exactly(x)})") == pytest.approx(
        getattr(math, name)(x), rel=1e-14, abs=1e-15
    )


@given(y=_floats(), x=_floats())
def test_angles_of_points_agree_with_floating_point(y: float, x: float) -> None:
    assert _value(f"atan2({_exactly(y)}, {_exactly(x)})") == pytest.approx(
        math.atan2(y, x), rel=1e-14
    )


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=9))
def test_statistics_agree_with_python(numbers: list[int]) -> None:
    listed = ", ".join(map(str, numbers))
    fractions = [Fraction(number) for number in numbers]
    for name, value in (
        ("sum", sum(fractions)),
        ("mean", statistics.mean(fractions)),
        ("median", statistics.median(fractions)),
    ):
        expected = Fraction(value)
        difference = f"{name}({listed}) - ({expected.numerator}/{expected.denominator})"
        assert calculate(difference) == "0"


def _exactly(x: float) -> str:
    numerator, denominator = x.as_integer_ratio()
    return f"{numerator}/{denominator}"


def _value(expression: str) -> float:
    return float(calculate(expression).split(" ")[0])


@pytest.mark.parametrize(
    ("expression", "result"),
    # Digits from mpmath at 50 digits.
    [
        ("pi", "3.141592653589793"),
        ("e", "2.718281828459045"),
        ("sqrt(2)", "1.414213562373095"),
        ("exp(1000)", "1.970071114017047e+434"),
        ("sin(10^22)", "-0.8522008497671888"),
        ("ln(10^-400)", "-921.0340371976183"),
        ("2^0.5^0.5", "1.632526919438153"),
        ("atan(10^30)", "1.570796326794897"),
    ],
)
def test_known_digits(expression: str, result: str) -> None:
    assert calculate(expression) == result


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("sin(pi)", "0"),
        ("sqrt(2)^2 - 2", "0"),
        ("floor(sqrt(2)^2)", "2"),
        ("floor(1 - exp(-100))", "0"),
        ("exp(1e-50) - 1", "1e-50"),
        ("floor(exp(100))", "26881171418161354484126255515800135873611118"),
        ("(1 + 1e-60 * pi - 1) * 1e60", "3.141592653589793"),
        ("sqrt(sin(pi))", "0"),
        ("tanh(1000)", "1"),
        ("1.0000001^1000000000", "2.688103701264924e+43"),
    ],
)
def test_cancellation_costs_no_digits(expression: str, result: str) -> None:
    assert calculate(expression) == result


def test_large_whole_numbers_are_exact() -> None:
    assert calculate("2^1000") == str(2**1000)
    assert calculate("100!") == str(math.factorial(100))
    assert calculate("3^20000 % 10^12") == str(pow(3, 20000, 10**12))
    assert len(calculate("10^9999")) == 10_000


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("9^9^9^9", r"would have about 369,693,100 digits.* at character 4"),
        ("10000000!", r"would have about 65,657,06\d digits"),
        ("2^10^400", r"more than the 10,000 digits"),
        ("1e10001", r"more than 10,000 digits"),
        ("1e99999999999999999999", r"more than 10,000 digits"),
        ("10^9000 * 10^9000", r"digits"),
        ("comb(100000, 50000)", r"digits"),
        ("perm(10^10, 10^9)", r"digits"),
        ("(10^9000)!", r"digits"),
        ("exp(10^9)", r"too large"),
        ("exp(-10^9)", r"too close to zero"),
        ("sin(10^5000)", r"angle"),
        ("round(pi, 10^9)", r"at most"),
        ("(" * (MAX_NESTING + 1) + "1" + ")" * (MAX_NESTING + 1), r"nesting"),
        ("√" * 10_000, r"nesting"),
        ("^".join(["1"] * 5000), r"nesting"),
        ("1+" * MAX_LENGTH + "1", r"10,000 characters"),
    ],
)
def test_what_costs_too_much_is_refused_at_once(expression: str, sentence: str) -> None:
    start = time.thread_time()
    with pytest.raises(CalculationError, match=sentence):
        calculate(expression)
    assert time.thread_time() - start < 0.5


@pytest.mark.parametrize(
    "expression",
    [
        "+".join(f"1/{n}" for n in range(1, 1200)),  # fractions that grow
        "+".join(["1"] * 5000),
        "-" * 9_999 + "1",
        "*".join(["sqrt(2)"] * 1200),
        f"lcm({', '.join(map(str, range(1, 1500)))})",
    ],
)
def test_long_expressions_are_computed(expression: str) -> None:
    assert calculate(expression, seconds=60)


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("", "A number is missing, at the end"),
        ("1 +", "A number is missing, at the end"),
        ("1 + * 2", r'instead of "\*", at character 5: \* 2'),
        ("(1 + 2", r'The "\(" is never closed, at character 1'),
        ("1 + 2)", r'This "\)" was never opened, at character 6'),
        ("2 3", 'operator is missing before "3", at character 3'),
        ("2 # 3", '"#" is not understood, at character 3'),
        ("sqr(4)", "did you mean sqrt, at character 1"),
        ("xyzzy(4)", "known are abs, acos"),
        ("__import__('os')", "not understood"),
        ("sqrt 4", "takes its arguments in parentheses"),
        ("pi(3)", "pi is a constant"),
        ("round(1, 2, 3)", "1 or 2 arguments, not 3"),
        ("sqrt()", "1 argument, not 0"),
        ("max()", "1 or more arguments"),
        ("1,000 + 1", "write 1000"),
        ("12,345", "without thousands separators"),
        ("(12,345)", "without thousands separators"),
        ("max(1,050)", "write 1050"),
        ("sum(1,234, 5,678)", "write 1234"),
        ("5!!", "at character 3"),
        ("1 + 1/0", "Division by zero, at character 6: /0"),
        ("5 % 0", "Division by zero"),
        ("0^-1", "Division by zero"),
        ("1/(sqrt(2) - sqrt(2))", "Division by zero"),
        ("tan(pi/2)", "infinite"),
        ("sqrt(-1)", "not real"),
        ("(-8)^(1/3)", "cbrt"),
        ("root(-4, 2)", "not real"),
        ("ln(0)", "only defined above 0"),
        ("log(2, 1)", "base 1"),
        ("asin(1.1)", "from -1 to 1"),
        ("atan2(0, 0)", "not defined"),
        ("3.5!", "whole number"),
        ("(-1)!", "not be negative"),
        ("gcd(1.5, 2)", "whole number"),
    ],
)
def test_errors_say_what_and_where(expression: str, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence):
        calculate(expression)


@pytest.mark.parametrize(
    "expression",
    ["1/2pi", "6/2(1+2)", "2^3pi", "√2pi", "7 % 2pi", "200 + 15%", "80 - 5%", "9 % -3"],
)
def test_what_can_be_read_in_two_ways_is_refused(expression: str) -> None:
    with pytest.raises(CalculationError, match="two ways"):
        calculate(expression)


_WORDS = [*FUNCTIONS, *CONSTANTS, *"0123456789+-*/%^!(),[].²√÷ ", "of", "mod", "1e9", "//", "**"]


@given(st.lists(st.sampled_from(_WORDS), max_size=25).map("".join) | st.text(max_size=20))
def test_any_text_has_a_result_or_a_sentence(expression: str) -> None:
    try:
        assert calculate(expression, seconds=60)
    except CalculationError as error:
        assert len(str(error)) > 10  # noqa: PT017  (either is right)


def test_time_is_bounded() -> None:
    with pytest.raises(TimeIsUp):
        calculate("+".join(["sqrt(2)"] * 1000), seconds=0.0)


def test_the_tool_computes_what_takes_long_in_a_thread() -> None:
    slow = "+".join(f"1/{n}" for n in range(1, 1200))
    with pytest.raises(TimeIsUp):
        calculate(slow, seconds=0.002)

    async def run() -> tuple[ToolOutput, int]:
        call = asyncio.create_task(Calculator().call({"expression": slow}, CONTEXT))
        turns = 0
        while not call.done():
            turns += 1
            await asyncio.sleep(0)
        return await call, turns

    output, turns = asyncio.run(run())
    assert float(output.text) == pytest.approx(sum(1 / n for n in range(1, 1200)))
    assert turns > 10  # of the event loop, which was free


def test_the_tool_gives_the_result() -> None:
    output = asyncio.run(Calculator().call({"expression": "6*7"}, CONTEXT))
    assert output == ToolOutput("42")
