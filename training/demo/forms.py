"""Filling a JSON schema from text: the schema stands in the developer message."""

from __future__ import annotations

import json
from typing import Any

from ossia.turn import ReasoningEffort
from training.demo import values, words
from training.demo.exchange import Answer, Exchange, by_effort
from training.demo.values import Argument, Parameter
from training.demo.words import Source

NATURAL = {
    values.AGE: ["{v} years old", "aged {v}", "age {v}"],
    values.CITY: ["lives in {v}", "in {v}", "from {v}"],
    values.COUNTRY: ["from {v}", "in {v}"],
    values.JOB: ["works as a {v}", "a {v}"],
    values.EMAIL: ["email {v}", "reachable at {v}", "{v}"],
    values.DATE: ["on {v}", "date {v}"],
    values.TIME: ["at {v}"],
    values.PRICE: ["costs {v}", "for {v}"],
    values.COLOR: ["the color is {v}", "in {v}"],
    values.ITEMS: ["with {v}", "namely {v}"],
    values.YEAR: ["from {v}", "in the year {v}"],
}


def schema_text(source: Source, parameters: list[Parameter]) -> str:
    """A JSON schema in one of the ways that clients write it."""
    properties = {p.name: p.schema() for p in parameters}
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if source.chance(0.15):
        schema = {"properties": properties, "type": "object"}
    if source.chance(0.2):
        for name, part in properties.items():
            part["title"] = name.replace("_", " ").title()
    if source.chance(0.85):
        schema["required"] = [p.name for p in parameters]
    if source.chance(0.5):
        schema["additionalProperties"] = False
    if source.chance(0.15):
        schema["title"] = source.choice(words.NOUNS).capitalize()
    if source.chance(0.1):
        return json.dumps(schema, indent=2)
    separators = source.choice([(",", ":"), (",", ":"), (", ", ": ")])
    return json.dumps(schema, separators=separators)


def text_of(source: Source, arguments: list[Argument]) -> str:
    """A note that contains every value."""
    kinds = [a.parameter.kind for a in arguments]
    natural = len(set(kinds)) == len(kinds) and source.chance(0.5)
    parts = []
    for index, argument in enumerate(arguments):
        kind = argument.parameter.kind
        text = values.spoken(argument.value)
        if natural and index == 0 and kind is values.PERSON:
            parts.append(text)
        elif natural and kind in NATURAL and source.chance(0.7):
            parts.append(source.choice(NATURAL[kind]).format(v=text))
        else:
            parts.append(values.say(source, argument.parameter, argument.value, natural=False))
    if source.chance(0.15) and not natural:
        source.random.shuffle(parts)
    text = source.choice([", ", ", ", "; ", "\n", " and "]).join(parts)
    return source.choice(
        ["{}", "{}", "{}.", "Extract: {}", "Text: {}", "Here it is: {}", "{}\nFill in the form."]
    ).format(text)


def fill_schema(source: Source, effort: ReasoningEffort) -> Exchange:
    """The answer is the JSON object and nothing else."""
    name = source.choice(words.NOUNS + words.JOBS) if source.chance(0.7) else source.choice(
        ["response", "person", "order", "output", "result", "answer", "schema", "data"]
    )  # fmt: skip
    if source.chance(0.2):
        name = f"{name}_{source.choice(words.NOUNS)}"
    kinds = source.random.sample(values.KINDS, source.choice([1, 2, 2, 3, 3, 4, 5]))
    if source.chance(0.35):
        kinds = [values.PERSON, *(k for k in kinds if k is not values.PERSON)]
    parameters: list[Parameter] = []
    for kind in kinds:
        parameter = values.make_parameter(source, kind)
        if all(parameter.name != p.name for p in parameters):
            parameters.append(parameter)
    arguments = [Argument(p, values.draw_value(source, p.kind, p.enum)) for p in parameters]
    description = (
        f"// {source.choice(words.ADJECTIVES).capitalize()} {name.replace('_', ' ')}\n"
        if source.chance(0.4)
        else ""
    )
    gap = "\n" if source.chance(0.7) else ""
    instructions = (
        f"# Response Formats\n\n## {name}\n{gap}{description}{schema_text(source, parameters)}"
    )
    listed = ", ".join(p.label for p in parameters)
    found = ", ".join(f"{a.parameter.label} {values.spoken(a.value)}" for a in arguments)
    reasoning = by_effort(
        effort,
        "Fill the schema.",
        f"The answer must be JSON with {listed}.",
        f"From the text: {found}. I write only the JSON object.",
    )
    answer = Answer(reasoning, values.compact_json(arguments))
    return Exchange("schema", text_of(source, arguments), (), answer, (), instructions)
