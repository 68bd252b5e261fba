"""How long turn grammars take to compile, and how long the masks take afterwards.

    python benchmarks/grammar_compile.py

Prints a table in Markdown. Times are the best of several runs, in milliseconds: `compile` is what a
request waits for the first time (reading schemas, writing the grammar, checking it), `found` the
same request again, `engine` what the engine needs to make a matcher of it, `mask` the slowest of
the first masks of a call's arguments or a formatted answer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from llguidance import LLMatcher, LLTokenizer

from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.ll_tokenizer import ll_tokenizer, parser_limits
from ossia.harmony.tokenizer import CHANNEL, MESSAGE, Tokenizer
from ossia.turn import OutputFormat, ToolDefinition, Turn

RUNS = 5
T = TypeVar("T")

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "required": ["city"],
}
ITEM = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "format": "uuid"},
        "kind": {"enum": ["book", "film", "game"]},
        "price": {"type": "number", "exclusiveMinimum": 0, "maximum": 999.99},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z-]{2,20}$"}},
        "sold": {"type": ["string", "null"], "format": "date-time"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/item"}, "maxItems": 20},
    },
    "required": ["id", "kind"],
    "if": {"properties": {"kind": {"const": "book"}}},
    "then": {"required": ["price"]},
}
HARD = {
    "type": "object",
    "properties": {
        "items": {"type": "array", "items": {"$ref": "#/$defs/item"}, "minItems": 1},
        "who": {
            "oneOf": [
                {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]},
                {"type": "string", "format": "email"},
            ]
        },
    },
    "required": ["items", "who"],
    "dependentRequired": {"note": ["who"]},
    "$defs": {"item": ITEM},
}


def large(size: int) -> dict[str, Any]:
    """A schema of about `size` bytes of JSON, in the manner of a generated API description."""
    definitions: dict[str, Any] = {}
    while len(str(definitions)) < size:
        number = len(definitions)
        definitions[f"m{number}"] = {
            "type": "object",
            "description": f"The model with the number {number} of a generated API.",
            "properties": {
                "name": {"type": "string", "maxLength": 80},
                f"count_{number}": {"type": "integer", "minimum": 0},
                "state": {"enum": ["new", "open", "done"]},
                "next": {"$ref": f"#/$defs/m{number // 2}"},
            },
            "required": ["name"],
        }
    properties = {f"f{n}": {"$ref": f"#/$defs/m{n}"} for n in range(len(definitions))}
    return {"type": "object", "properties": properties, "$defs": definitions}


def tools(count: int) -> tuple[ToolDefinition, ...]:
    """Functions with the same small schema."""
    return tuple(ToolDefinition(f"get_weather_{n}", parameters=CITY) for n in range(count))


def answer(schema: dict[str, Any]) -> OutputFormat:
    """A strict response format."""
    return OutputFormat("json_schema", schema=schema)


TURNS = {
    "no tools, free text": Turn(()),
    "3 tools": Turn((), tools(3)),
    "a hard schema": Turn((), output=answer(HARD)),
    "3 tools and a hard schema": Turn((), tools(3), output=answer(HARD)),
    "128 tools": Turn((), tools(128)),
    "a schema of 100 KB": Turn((), output=answer(large(100_000))),
}


def best(work: Callable[[], T]) -> tuple[float, T]:
    """Milliseconds of the fastest run, and what it returned."""
    times = []
    for _ in range(RUNS):
        started = time.perf_counter()
        result = work()
        times.append((time.perf_counter() - started) * 1000)
    return min(times), result


def slowest_mask(matcher: LLMatcher, turn: Turn, tokenizer: Tokenizer) -> float:
    """Milliseconds of the slowest of the first masks of what is held to a schema."""
    channel = "final" if turn.output else f"commentary to=functions.{turn.tools[0].name}"
    begun = [CHANNEL, *tokenizer.encode(channel), MESSAGE]
    times = []
    for token in [*begun, *tokenizer.encode('{"')]:
        started = time.perf_counter()
        matcher.compute_bitmask()
        times.append((time.perf_counter() - started) * 1000)
        if not matcher.consume_token(token):
            break
    return max(times)


def main() -> None:
    """Print the table."""
    tokenizer = Tokenizer()
    vocabulary: LLTokenizer = ll_tokenizer(tokenizer)
    compiler = GrammarCompiler(tokenizer, max_cached_characters=0)
    caching = GrammarCompiler(tokenizer)
    print("| turn | grammar | compile | found | engine | mask |")
    print("|---|---|---|---|---|---|")
    for name, turn in TURNS.items():
        compiled, grammar = best(lambda turn=turn: compiler.compile(turn))
        found, _ = best(lambda turn=turn: caching.compile(turn))
        engine, matcher = best(
            lambda text=grammar.whole: LLMatcher(vocabulary, text, limits=parser_limits())
        )
        mask = slowest_mask(matcher, turn, tokenizer) if turn.tools or turn.output else 0.0
        print(
            f"| {name} | {len(grammar.whole) / 1024:.1f} KB | {compiled:.2f} ms | {found:.3f} ms "
            f"| {engine:.2f} ms | {mask:.2f} ms |"
        )


if __name__ == "__main__":
    main()
