"""What functions return, and the final answer that reports it."""

from __future__ import annotations

import json

from training.demo import values, words
from training.demo.values import Argument
from training.demo.words import Source

FIELDS = [
    "status",
    "result",
    "id",
    "count",
    "total",
    "name",
    "state",
    "code",
    "message",
    "value",
    "price",
    "time",
    "date",
    "amount",
    "level",
    "type",
    "size",
    "distance",
    "temperature",
    "humidity",
    "condition",
    "rate",
    "score",
    "available",
    "owner",
    "location",
    "unit",
    "number",
    "balance",
    "title",
    "found",
]


def some_value(source: Source) -> values.Value:
    draw = source.random.random()
    if draw < 0.3:
        return source.integer(0, 999)
    if draw < 0.4:
        return values.decimal(source)
    if draw < 0.5:
        return source.chance(0.5)
    if draw < 0.7:
        return source.piece() if source.chance(0.4) else source.choice(values.ANY_WORD)
    if draw < 0.74:
        return [some_row(source) for _ in range(source.integer(1, 2))]
    if draw < 0.78:
        tag = source.choice(["h1", "p", "em", "b", "li"])
        return f"<{tag}>{values.phrase(source)}</{tag}>"
    kind = source.choice(values.KINDS)
    return kind.make(source) if kind.type == "string" else source.choice(["ok", "done", "sent"])


def some_row(source: Source) -> dict[str, values.Value]:
    """A small object, as lists in results have them."""
    keys = source.random.sample(FIELDS, source.integer(1, 3))
    return {
        key: source.integer(0, 999) if source.chance(0.5) else source.choice(values.ANY_WORD)
        for key in keys
    }


def any_result(source: Source, arguments: list[Argument]) -> str:
    """What an arbitrary function may return: a JSON object, a value, some words or an error."""
    draw = source.random.random()
    if draw < 0.08:
        message = source.choice(
            ["not found", "timeout", "invalid input", "permission denied", "unknown error"]
        )
        return json.dumps({"error": message})
    if draw < 0.7:
        keys = source.random.sample(FIELDS, source.integer(1, 4))
        if source.chance(0.45):
            keys[0] = f"{source.noun(0.3)}_{source.choice(FIELDS)}"
        if source.chance(0.25):
            keys[-1] = source.small_piece() if source.chance(0.5) else source.choice(words.NOUNS)
        out: dict[str, values.Value] = {key: some_value(source) for key in keys}
        if arguments and source.chance(0.3):
            out = {arguments[0].parameter.name: arguments[0].value, **out}
        separators = source.choice([(",", ":"), (", ", ": "), (", ", ": ")])
        return json.dumps(out, separators=separators, ensure_ascii=False)
    if draw < 0.85:
        return values.spoken(some_value(source))
    return source.choice(["ok", "Done.", "true", "Success", "sent", values.phrase(source)])


def report(result: str) -> str:
    """The final answer that reports a result: its fields, or the text itself."""
    try:
        parsed = json.loads(result)
    except ValueError:
        parsed = result
    if isinstance(parsed, dict):
        if set(parsed) == {"error"}:
            return f"The function failed: {parsed['error']}."
        fields = ", ".join(
            f"{key.replace('_', ' ')} {values.spoken(value)}" for key, value in parsed.items()
        )
        return f"Here is the result: {fields}."
    return f"The function returned: {result.rstrip('.')}."
