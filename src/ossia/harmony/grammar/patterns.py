"""Patterns of JSON schema, in Rust's syntax for regular expressions.

The patterns are those of JavaScript, but not all who check a value read them so: Python counts
letters of all languages under `\\w`. What is written here matches by either reading: `\\w` stands
for ASCII, `\\W` for what no reader takes for part of a word. Signs that only Rust gives a meaning
to inside of brackets (`[`, `&&`, `--`, `~~`) are escaped.
"""

from __future__ import annotations

from ossia.harmony.grammar.words import Unenforceable

MAX_PATTERN = 10_000  # characters

# What all readers count as one of these, and what some of them do.
_SURELY = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t-\r \x{a0}"}
_PERHAPS = {"d": r"\p{Nd}", "w": r"\p{L}\p{M}\p{N}\p{Pc}", "s": r"\s\x1c-\x1f\x{85}\x{feff}"}
_DOT = r"[^\n\r\x{2028}\x{2029}]"


def rust_pattern(pattern: object, keyword: str) -> str:
    """A pattern of JSON schema for Rust's regex syntax.

    Raises:
        Unenforceable: no string, too long, or brackets that mean different things to readers.
    """
    if not isinstance(pattern, str):
        raise Unenforceable(keyword, "must be a regular expression")
    if len(pattern) > MAX_PATTERN:
        raise Unenforceable(keyword, f"has more than {MAX_PATTERN} characters")
    written: list[str] = []
    position = 0
    while position < len(pattern):
        sign = pattern[position]
        if sign == "[":
            text, position = _brackets(pattern, position, keyword)
            written.append(text)
        elif sign == "\\":
            letter = pattern[position + 1 : position + 2]
            is_class = letter.lower() in _SURELY
            written.append(f"[{_class(letter, negated=False)}]" if is_class else sign + letter)
            position += 2
        else:
            written.append(_DOT if sign == "." else sign)
            position += 1
    return "".join(written)


def _class(letter: str, *, negated: bool) -> str:
    """`\\d`, `\\w`, `\\s` and their opposites inside of brackets."""
    if letter.islower():
        return (_PERHAPS if negated else _SURELY)[letter]
    return f"[^{(_SURELY if negated else _PERHAPS)[letter.lower()]}]"


def _brackets(pattern: str, start: int, keyword: str) -> tuple[str, int]:
    """A class in brackets that begins at `start`, and where it ends."""
    negated = pattern.startswith("[^", start)
    position = start + 1 + negated
    if pattern.startswith("]", position):
        raise Unenforceable(keyword, "has empty brackets, which readers understand in two ways")
    written = ["[^" if negated else "["]
    after_class = False  # a hyphen there is no range
    while position < len(pattern):
        sign = pattern[position]
        if sign == "]":
            return "".join([*written, "]"]), position + 1
        if sign == "\\":
            letter = pattern[position + 1 : position + 2]
            after_class = letter.lower() in _SURELY
            written.append(_class(letter, negated=negated) if after_class else sign + letter)
            position += 2
            continue
        doubled = sign in "&~-" and pattern.startswith(sign, position + 1)
        escaped = sign == "[" or doubled or (sign == "-" and after_class)
        written.append(f"\\{sign}" if escaped else sign)
        after_class = False
        position += 1
    raise Unenforceable(keyword, "has brackets that do not end")
