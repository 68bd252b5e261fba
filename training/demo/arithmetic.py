"""Sums: in the head with the steps shown, or through a calculator function when there is one."""

from __future__ import annotations

from fractions import Fraction

from ossia.turn import ReasoningEffort, ToolDefinition
from training.demo import words
from training.demo.exchange import Answer, Call, Exchange, by_effort
from training.demo.words import Source

SIGNS = {
    "+": ["+", "plus"],
    "-": ["-", "minus"],
    "*": ["*", "x", "\N{MULTIPLICATION SIGN}", "times"],
    "/": ["/", "divided by"],
}
LEADS = [
    "{}",
    "{} = ?",
    "What is {}?",
    "what's {}",
    "How much is {}?",
    "Calculate {}",
    "Compute {}.",
    "Please calculate {}",
    "Can you work out {}?",
    "Tell me {}",
    "{}?",
    "solve {}",
    "What does {} equal?",
    "I need to know {}",
    "{} please",
    "What's the result of {}?",
]


def ask_pair(source: Source, left: int, sign: str, right: int) -> str:
    """A question about one operation, in one of many wordings."""
    if source.chance(0.75):
        word = source.choice(SIGNS[sign]) if source.chance(0.6) else sign
        gap = "" if word in "+-*/\N{MULTIPLICATION SIGN}" and source.chance(0.25) else " "
        return source.choice(LEADS).format(f"{left}{gap}{word}{gap}{right}")
    forms = {
        "+": [
            "Add {a} and {b}",
            "What is the sum of {a} and {b}?",
            "Add {a} to {b}.",
            "sum {a} and {b}",
        ],
        "-": [
            "Subtract {b} from {a}",
            "What is the difference between {a} and {b}?",
            "Take {b} from {a}.",
        ],
        "*": ["Multiply {a} by {b}", "What is the product of {a} and {b}?", "multiply {a} and {b}"],
        "/": ["Divide {a} by {b}", "What is {a} over {b}?", "divide {a} by {b} please"],
    }
    return source.choice(forms[sign]).format(a=left, b=right)


def story(source: Source, left: int, sign: str, right: int) -> str:
    """The same sum as a little story; for + and - only."""
    thing = source.choice(words.FOODS + words.NOUNS) + "s"
    who = source.choice(words.FIRST_NAMES)
    if sign == "+":
        form = source.choice(
            ["I have {a} {t} and get {b} more. How many {t} do I have?",
             "{w} has {a} {t} and buys {b} more. How many {t} does {w} have now?",
             "There are {a} {t} here and {b} {t} there. How many are there together?"]
        )  # fmt: skip
    else:
        form = source.choice(
            ["I have {a} {t} and give away {b}. How many {t} are left?",
             "{w} has {a} {t} and loses {b}. How many {t} does {w} have now?",
             "There are {a} {t}. {w} takes {b}. How many are left?"]
        )  # fmt: skip
    return form.format(a=left, b=right, t=thing, w=who)


def parts(number: int) -> list[int]:
    """345 -> [300, 40, 5]; zeros are left out."""
    digits = str(number)
    out = [int(d) * 10 ** (len(digits) - i - 1) for i, d in enumerate(digits)]
    return [p for p in out if p] or [0]


def addition_steps(left: int, right: int) -> str:
    """37 + 58: tens, then ones, then together."""
    steps, partial = [], []
    for power in (100, 10, 1):
        a, b = left // power % 10 * power, right // power % 10 * power
        if a or b:
            steps.append(f"{a} + {b} = {a + b}")
            partial.append(a + b)
    total = partial[0] if partial else 0
    for value in partial[1:]:
        steps.append(f"{total} + {value} = {total + value}")
        total += value
    return ", ".join(steps)


def subtraction_steps(left: int, right: int) -> str:
    """58 - 37: take away the tens, then the ones."""
    if left < right:
        return f"{subtraction_steps(right, left)}, so {left} - {right} = {left - right}"
    steps, rest = [], left
    for part in parts(right):
        steps.append(f"{rest} - {part} = {rest - part}")
        rest -= part
    return ", ".join(steps)


def product_steps(left: int, right: int) -> str:
    small, big = sorted((left, right))
    if len(parts(big)) == 1 or small == 0:
        return f"{left} * {right} = {left * right}"
    products = [part * small for part in parts(big)]
    steps = [f"{part} * {small} = {part * small}" for part in parts(big)]
    return ", ".join(steps) + f", {' + '.join(map(str, products))} = {sum(products)}"


def in_short(left: int, sign: str, right: int) -> str:
    """The thought at low effort: only what the last step adds up."""
    if sign == "+":
        places = (left // p % 10 * p + right // p % 10 * p for p in (100, 10, 1))
        return " + ".join(str(p) for p in places if p) + "."
    if sign == "-" and left < right:
        return f"- ({in_short(right, sign, left).rstrip('.')})."
    if sign == "-":
        *first, last = parts(right)
        rest = [left - sum(first[: i + 1]) for i in range(len(first))]
        return (
            ", ".join(map(str, rest[:-1]))
            + f"{', ' if rest[:-1] else ''}{rest[-1] if rest else left} - {last}."
        )
    return "Simple sum."


def draw_sum(source: Source) -> tuple[int, str, int]:
    """One operation on this side of the split, most of them two-digit additions."""
    draw = source.random.random()

    def key(a: int, sign: str, b: int) -> str:
        return f"{min(a, b)} {max(a, b)}" if sign in "+*" else f"{a} {b}"

    def make(a_low: int, a_high: int, b_low: int, b_high: int, sign: str) -> tuple[int, str, int]:
        while True:
            a, b = source.integer(a_low, a_high), source.integer(b_low, b_high)
            if words.is_held_out(f"sum {sign}", key(a, sign, b)) == source.held_out:
                return a, sign, b

    if draw < 0.5:
        return make(0, 99, 0, 99, "+")
    if draw < 0.58:
        return make(0, 999, 0, 999, "+")
    if draw < 0.73:
        a, sign, b = make(0, 99, 0, 99, "-")
        return (
            (b, sign, a) if a < b and source.chance(0.7) and not source.held_out else (a, sign, b)
        )
    if draw < 0.8:
        return make(100, 999, 0, 999, "-")
    if draw < 0.94:  # the tables have to be learned by heart: they are not split
        return source.integer(0, 12), "*", source.integer(0, 12)
    divisor = source.integer(1, 12)
    return divisor * source.integer(0, 12), "/", divisor


def in_the_head(source: Source, effort: ReasoningEffort) -> Exchange:
    """Small arithmetic without a function."""
    left, sign, right = draw_sum(source)
    answer = {"+": left + right, "-": left - right, "*": left * right}.get(sign)
    if sign == "/":
        answer = left // right
    line = f"{left} {sign} {right} = {answer}"
    steps = {"+": addition_steps, "-": subtraction_steps, "*": product_steps}.get(sign)
    worked = steps(left, right) if steps else f"{right} * {answer} = {left}"
    check = {
        "+": f"{answer} - {right} = {left}",
        "-": f"{answer} + {right} = {left}",
        "*": f"{right} * {left} = {answer}",
        "/": f"{answer} * {right} = {left}",
    }[sign]
    asked_as_story = sign in "+-" and left >= right and source.chance(0.15)
    user = (story if asked_as_story else ask_pair)(source, left, sign, right)
    reasoning = by_effort(
        effort,
        in_short(left, sign, right),
        f"{left} {sign} {right}: {worked}.",
        f"Check: {check}. That fits, so the answer is {answer}.",
    )
    return Exchange("arithmetic", user, (), Answer(reasoning, f"{line}."))


def expression(source: Source) -> tuple[str, str]:
    """An expression as the model writes it, and the value."""
    operands = source.choice([2, 2, 2, 3, 3, 4])
    top = source.choice([20, 100, 1000, 10000])
    terms = [str(source.integer(1, top)) for _ in range(operands)]
    if source.chance(0.15):
        terms[0] = f"{terms[0]}.{source.integer(1, 9)}"
    signs = [source.choice("+-*/+-*") for _ in range(operands - 1)]
    text = terms[0] + "".join(f" {s} {t}" for s, t in zip(signs, terms[1:], strict=True))
    if operands >= 3 and source.chance(0.4):
        text = f"({terms[0]} {signs[0]} {terms[1]}) {signs[1]} {terms[2]}"
        text += "".join(f" {s} {t}" for s, t in zip(signs[2:], terms[3:], strict=True))
    return text, evaluate(text)


def evaluate(text: str) -> str:
    """Exact value of an expression of + - * / and brackets, rounded to four decimals."""
    tokens = text.replace("(", "( ").replace(")", " )").split()

    def factor() -> Fraction:
        token = tokens.pop(0)
        if token == "(":
            value = total()
            tokens.pop(0)
            return value
        return Fraction(token)

    def term() -> Fraction:
        value = factor()
        while tokens and tokens[0] in "*/":
            sign, right = tokens.pop(0), factor()
            value = value * right if sign == "*" else value / right
        return value

    def total() -> Fraction:
        value = term()
        while tokens and tokens[0] in "+-":
            sign, right = tokens.pop(0), term()
            value = value + right if sign == "+" else value - right
        return value

    result = total()
    if result.denominator == 1:
        return str(result.numerator)
    return f"{float(result):.4f}".rstrip("0").rstrip(".")


NAMES = [
    "calculator",
    "calculate",
    "calc",
    "evaluate",
    "compute",
    "math",
    "do_math",
    "eval_expression",
    "calculator_tool",
    "evaluate_expression",
    "run_calculator",
    "compute_expression",
    "solve",
    "math_eval",
    "arithmetic",
]
DESCRIPTIONS = [
    "Evaluate an arithmetic expression.",
    "Calculates the value of an expression.",
    "A calculator.",
    "Compute the result of a mathematical expression.",
    "Does arithmetic.",
    "",
]


def calculator_tool(source: Source) -> ToolDefinition:
    name = source.choice(NAMES) if source.chance(0.8) else "calculator"
    schema: dict[str, object] = {"type": "string"}
    if source.chance(0.5):
        schema["description"] = source.choice(
            [
                "The expression, such as 2 + 3 * 4.",
                "Arithmetic expression.",
                "Expression to evaluate.",
            ]
        )
    parameters = {
        "type": "object",
        "properties": {"expression": schema},
        "required": ["expression"],
    }
    return ToolDefinition(name, source.choice(DESCRIPTIONS), parameters)


def with_calculator(source: Source, effort: ReasoningEffort) -> Exchange:
    """Arithmetic of any size through the declared function."""
    tool = calculator_tool(source)
    if source.chance(0.5):
        left, sign, right = draw_sum(source)
        if sign == "/" and right == 0:
            sign, right = "+", 1
        if source.chance(0.6):
            top = source.choice([100, 1000, 10000, 1000000])
            left, right = source.integer(0, top), source.integer(1, top)
            sign = source.choice("+-*/")
        text = f"{left} {sign} {right}"
        value = evaluate(text)
        user = ask_pair(source, left, sign, right)
        if sign in "+-" and left >= right and source.chance(0.15):
            user = story(source, left, sign, right)
    else:
        text, value = source.draw("expression", lambda: expression(source))
        said = text.replace(" ", "") if source.chance(0.25) else text
        user = source.choice(LEADS).format(said)
        if source.chance(0.2):
            user = user.replace(
                " * ", source.choice([" x ", " times ", " \N{MULTIPLICATION SIGN} "])
            )
            user = user.replace(" + ", source.choice([" + ", " plus "]))
    reasoning = by_effort(
        effort,
        "Calculate.",
        f"This is arithmetic; {tool.name} can do it: {text}.",
        f"I give the expression {text} to the function and report what it returns.",
    )
    call = Call(reasoning, tool.name, f'{{"expression":"{text}"}}', value)
    if source.chance(0.25):
        key = source.choice(["result", "value", "answer"])
        call = Call(reasoning, tool.name, call.arguments, f'{{"{key}": {value}}}')
    after = by_effort(effort, "Report it.", f"The result is {value}.", f"So {text} = {value}.")
    return Exchange("calculator", user, (call,), Answer(after, f"{text} = {value}."), (tool,))
