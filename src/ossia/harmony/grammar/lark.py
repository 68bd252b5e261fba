"""A user's Lark grammar, checked before it becomes a part of ours.

It is a grammar of its own, so its names do not meet ours. What would let it leave the text of the
answer is refused: special tokens (`<...>`), references to other grammars (`@...`), options. The
words are told apart as llguidance tells them apart, so nothing can hide from this.
"""

from __future__ import annotations

import json
import re

from ossia.errors import InvalidRequest
from ossia.harmony.grammar.schema import OPTIONS, prepare_schema

MAX_CHARACTERS = 64 * 1024
MAX_RULES = 300  # each may need the next, and llguidance follows them on the stack
MAX_PARENTHESES = 32  # within each other

_WORDS = re.compile(
    r"""(?P<blank>[ \t]+|(?:\#|//)[^\n]*)
      | (?P<newline>(?:\r?\n)+[ \t]*)
      | (?P<string>"(?:\\["\\/bfnrt]|\\u[a-fA-F0-9]{4}|\\x[a-fA-F0-9]{2}|[^"\\\x00-\x1f\x7f])*"i?)
      | (?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
      | (?P<special><[^<>\s]+>)
      | (?P<reference>@[a-zA-Z0-9_-]+)
      | (?P<command>%[a-z]+)
      | (?P<name>!?[_?]?[a-zA-Z][_a-zA-Z0-9-]*)
      | (?P<number>[+-]?[0-9][0-9a-zA-Z.]*)
      | (?P<open>[(\[{])
      | (?P<close>[)\]}])
      | (?P<sign>->|::|\.\.|[:,.~|&=_+*?])
    """,
    re.VERBOSE,
)
_COMMANDS = ("%ignore", "%import", "%json", "%regex", "%declare", "%override")


def checked_lark(grammar: str, path: str) -> str:
    """The grammar, with the JSON schemas in it prepared like all others.

    Raises:
        InvalidRequest: what is not allowed here, or too much of it.
    """
    if len(grammar) > MAX_CHARACTERS:
        raise InvalidRequest(
            f"The grammar has {len(grammar)} characters; at most {MAX_CHARACTERS} are allowed.",
            param=path,
        )
    written: list[str] = []
    position = depth = rules = 0
    while position < len(grammar):
        word = _WORDS.match(grammar, position)
        line = grammar.count("\n", 0, position) + 1
        if word is None:
            raise _refused(path, line, f"{grammar[position]!r} cannot stand here")
        position = word.end()
        text, kind = word.group(), word.lastgroup
        if kind in ("special", "reference"):
            raise _refused(path, line, f"{text!r} is not allowed: an answer is text")
        if kind == "command" and text not in _COMMANDS:
            raise _refused(path, line, f"{text!r} is not allowed")
        depth += {"open": 1, "close": -1}.get(str(kind), 0)
        rules += text == ":"
        if depth > MAX_PARENTHESES or rules > MAX_RULES:
            raise _refused(
                path,
                line,
                f"there are more than {MAX_RULES} rules, or more than {MAX_PARENTHESES} brackets "
                "within each other",
            )
        written.append(text)
        if text in ("%json", "%regex"):
            value, position = _json(grammar, position, path, line)
            if text == "%json":
                prepared = prepare_schema(value, path=path, strict=True)
                value = prepared.document | {"x-guidance": OPTIONS}
            written.append(f" {json.dumps(value, ensure_ascii=False)} ")
    return "".join(written)


def _json(grammar: str, position: int, path: str, line: int) -> tuple[object, int]:
    start = re.compile(r"\s*").match(grammar, position)
    try:
        return json.JSONDecoder().raw_decode(grammar, start.end() if start else position)
    except (ValueError, RecursionError) as error:
        raise _refused(path, line, "JSON has to follow") from error


def _refused(path: str, line: int, sentence: str) -> InvalidRequest:
    return InvalidRequest(f"The grammar is refused in line {line}: {sentence}.", param=path)
