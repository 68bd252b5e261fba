"""An exact and safe calculator.

Numbers are fractions: `0.1 + 0.2` is 0.3, and `100!` has all its digits. What is irrational is
computed with 40 and more digits, until two precisions agree, and shown with 16. The grammar, in
which spaces only separate:

    expression  = term (("+" | "-") term)*
    term        = signed (("*" | "/" | "//" | "%" | "mod") signed)*
    signed      = ("+" | "-")* product
    product     = power power*                          implicit multiplication, see below
    power       = postfix (("^" | "**") ("+" | "-")* power)?
    postfix     = primary ("!" | "%" ("of" signed)? | "°" | superscript)*
    primary     = number | constant | call | "(" expression ")" | "√" primary
    call        = function "(" arguments ")" | function "([" arguments "])"
    arguments   = expression ("," expression)*
    number      = digits ("." digits)? ("e" ("+" | "-")? digits)?       digits: 1_000 is 1000
    constant    = "pi" | "π" | "tau" | "τ" | "e"

- Powers bind from the right: `2^3^2` is 512; and tighter than signs: `-2^2` is -4.
- `//` rounds down; a remainder has the sign of its divisor: `-7 % 3` is 2.
- A `%` with an operand behind it is a remainder, any other is a percentage: `15%` is 0.15,
  `15% of 80` is 12. A sign behind `%` goes on after a percentage (`50% - 3`). Sums such as
  `200 + 15%`, which mean 230 to some and 200.15 to others, are refused.
- Implicit multiplication is understood behind numbers and parentheses (`2pi`, `2(3+4)`,
  `(1+2)(3+4)`), and refused where it can be read in two ways (`1/2pi`, `2^3pi`, `√2pi`).
- Commas only separate arguments; `1,000` is refused.
- × · ÷ − √ ° π τ and superscripts (`10⁻³`) are understood; so is `math.` before a name.
- Names are known in any case. `log(x)` is the natural logarithm, `log(x, b)` that of base b.
  Angles are radians. `round` rounds halves away from zero.

Work is bounded before it is done: by the length and nesting of the expression, by the digits of
every number, and by time.
"""

from ossia.tools.calculator.calculate import calculate
from ossia.tools.calculator.tool import Calculator

__all__ = ["Calculator", "calculate"]
