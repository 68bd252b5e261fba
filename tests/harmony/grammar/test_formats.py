"""Formats of the answer that are no JSON: patterns, choices, grammars of the user's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ossia.errors import InvalidRequest
from ossia.harmony.grammar import GrammarCompiler
from ossia.turn import OutputFormat, Turn

Accepts = Callable[[OutputFormat, str], bool]


@pytest.fixture
def accepts(
    compiler: GrammarCompiler, held: Any, spelled: Callable[[str], list[int]]
) -> Callable[[OutputFormat, str], bool]:
    """Whether the body of the answer may be this text."""

    def check(output: OutputFormat, text: str) -> bool:
        grammar = compiler.compile(Turn((), output=output)).whole
        header, end = spelled("<|channel|>final<|message|>"), spelled("<|return|>")
        return bool(held.accepts(grammar, [*header, *held.encode(text), *end]))

    return check


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("[a-z]+/\\d{2}", "ab/12", "ab/1"),
        ("^a|b$", "b", "ab"),
        ("a\\$", "a$", "a"),
        ("a\\\\$", "a\\", "a\\$"),
        ("a\nb", "a\nb", "a b"),
        ('"\\d"', '"1"', "1"),
        ("<\\|end\\|>.*", "<|end|> as text", "end"),
        ("(?i)yes|no", "YES", "maybe"),
        ("[/]", "/", "\\/"),
        ("a*", "", "b"),
    ],
)
def test_the_whole_answer_matches_a_pattern(
    accepts: Accepts, pattern: str, good: str, bad: str
) -> None:
    output = OutputFormat("regex", pattern=pattern)
    assert accepts(output, good)
    assert not accepts(output, bad)


CHOICES = ("a", "ab", 'two\nlines, "quoted" \\n', "\u00e9\x00\x7f", "<|return|>", "start: /x/")


@pytest.mark.parametrize("choice", CHOICES)
def test_the_answer_is_one_of_the_choices(accepts: Accepts, choice: str) -> None:
    output = OutputFormat("choice", choices=CHOICES)
    assert accepts(output, choice)
    assert not accepts(output, f"{choice}~")
    assert accepts(output, choice[:-1]) == (choice[:-1] in CHOICES)


@pytest.mark.parametrize("choices", [(), ("",), ("a", "a"), tuple(map(str, range(5000)))])
def test_choices_that_are_none_are_refused(
    compiler: GrammarCompiler, choices: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidRequest, match="choices") as refusal:
        compiler.compile(Turn((), output=OutputFormat("choice", choices=choices)))
    assert refusal.value.param == "response_format.choices"


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        ('start: "a" b\nb: /[0-9]+/', "a12", "a"),
        ('start: sum\nsum: sum "+" NUM | NUM\nNUM: /\\d/', "1+2+3", "1+"),
        # names of our own grammar mean the user's rules here
        ('start: text final\ntext: "t"\nfinal: "f"\nanalysis: "x"', "tf", "t"),
        ('%ignore / /\nstart: "a" "b"', "a b", "a-b"),
        ('start: %json {"properties": {"a": {"type": "null"}}} "!"', '{"a":null}!', '{"b":1}!'),
        ('start: "<|end|>" /<[^>]+>/ // not <|end|>, @start', "<|end|><a>", "<a>"),
        ('start: "\\u0041\\x42"i', "aB", "AC"),
        ('start: x{1,3}\nx: "x" # comment <a>', "xx", "xxxx"),
    ],
)
def test_the_answer_follows_a_grammar(accepts: Accepts, grammar: str, good: str, bad: str) -> None:
    output = OutputFormat("lark", pattern=grammar)
    assert accepts(output, good)
    assert not accepts(output, bad)


@pytest.mark.parametrize(
    ("grammar", "sentence"),
    [
        ("start: <|return|>", "an answer is text"),
        ('start: "a" <[200002]>', "an answer is text"),
        ('start: "a"\n\nb: <[0-199997]>', "line 3"),
        ("start: @body", "an answer is text"),
        ('%llguidance {"no_forcing": true}\nstart: "a"', "%llguidance"),
        ("start: %lark {start: <[5]>}", "%lark"),
        ('start: "a\nb"', "cannot stand here"),
        ("start: a", "unknown name"),
        ('begin: "a"', "no start rule"),
        ('start: start "a"', "allows no text"),
        ("start: /(?=a)/", "looking ahead"),
        ('start: %json {"format": "zip"}', "formats that can be enforced"),
        ("start: %json {", "JSON has to follow"),
        ("start: " + "(" * 40 + '"a"' + ")" * 40, "brackets"),
        ("".join(f'r{n}: "a"\n' for n in range(400)), "rules"),
        ('start: "' + "a" * 70_000 + '"', "characters"),
        ("", "no start rule"),
    ],
)
def test_a_grammar_that_may_not_be_used_is_refused(
    compiler: GrammarCompiler, grammar: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as refusal:
        compiler.compile(Turn((), output=OutputFormat("lark", pattern=grammar)))
    assert str(refusal.value.param).startswith("response_format.grammar")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(", "unclosed group"),
        ("(?=a)b", "looking ahead"),
        ("\\bfoo", "word boundaries"),
        ("[^\\s\\S]", "allows no text"),
        ("(" * 300 + "a" + ")" * 300, "nested"),
        ("", "1 to 10000"),
        ("a" * 10_001, "1 to 10000"),
    ],
)
def test_a_pattern_that_cannot_be_enforced_is_refused(
    compiler: GrammarCompiler, pattern: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as refusal:
        compiler.compile(Turn((), output=OutputFormat("regex", pattern=pattern)))
    assert refusal.value.param == "response_format.pattern"
