"""Functions that clients often declare, made from the topics under changing names."""

from __future__ import annotations

from training.demo import values, words
from training.demo.declared import Function, camel
from training.demo.results import any_result
from training.demo.topics import TOPICS, Topic
from training.demo.values import Argument, Parameter
from training.demo.words import Source

ELABORATE = (
    "A function: {d}",
    "{D} Returns JSON.",
    "Use it: {d}",
    "{D} Returns the result as text.",
    "{s}\N{EM DASH}use when you need it.",
    "{s}\N{EM DASH}use for {a} {n}s.",
    "{s}\N{EM DASH}use before you {v} the {n}.",
    "{s}; for {a} {n}s inside the chat.",
    "{s}, to {v} a {a} {n}.",
)


def with_phrases(source: Source, request: str, phrases: list[str]) -> str:
    """The request with phrases of optional parameters at its end, or where it says {more}."""
    text = ""
    for index, phrase in enumerate(phrases):
        joiner = " and " if index == len(phrases) - 1 > 0 and source.chance(0.4) else " "
        if phrase.startswith(","):
            text += f" and{phrase[1:]}" if joiner == " and " else phrase
        else:
            text += joiner + phrase
    if "{more}" in request:
        return request.replace("{more}", text)
    ending = request[-1] if request[-1] in "?." else ""
    return request[: len(request) - len(ending)] + text + ending


def everyday(source: Source, topic: Topic | None = None) -> Function:
    """One of the common functions under a name and parameter names of this side of the split."""
    topic = topic or source.choice(TOPICS)

    def make_name() -> str:
        name = f"{source.choice(topic.verbs)}_{source.choice(topic.nouns)}"
        draw = source.random.random()
        if draw < 0.1:
            return camel(name)
        if draw < 0.2 and not source.held_out:
            return source.choice(topic.nouns)
        if draw < 0.35:
            return f"{name}_{source.choice(words.NOUNS)}"
        return name

    slots: dict[str, Parameter] = {}
    for slot, kind, required in topic.parameters:
        pair = {"a": "from", "b": "to"}.get(slot)
        for _ in range(50):
            if pair:
                ending = source.choice(kind.names[:2])
                name = source.choice([pair, f"{pair}_{ending}", f"{pair}_{ending}"])
            elif slot == "on":
                name = source.choice(["on", "enabled", "state", "power"])
            else:
                name = values.parameter_name(source, kind)
            if name not in {p.name for p in slots.values()}:
                break
        slots[slot] = values.make_parameter(source, kind, name=name, required=required)

    def ask(source: Source) -> tuple[str, list[Argument]]:
        arguments, said = [], {}
        more: list[str] = []  # phrases of optional parameters
        request = source.choice(topic.requests)
        for slot, parameter in slots.items():
            phrases = [p for s, p in topic.options if s == slot]
            if not parameter.required and not (phrases and source.chance(0.5)):
                continue
            value = values.draw_value(source, parameter.kind, parameter.enum)
            while slot == "b" and value == arguments[-1].value:
                value = values.draw_value(source, parameter.kind, parameter.enum)
            if parameter.kind.unsaid and "{" + slot + "}" not in request:
                value = parameter.kind.unsaid
            speak = parameter.kind.speak
            text = speak(source, value) if speak else values.spoken(value)
            if not parameter.required and values.is_free_text(parameter) and source.chance(0.15):
                value, text = values.UNKNOWN, source.choice(source.strange)
            arguments.append(Argument(parameter, value))
            if slot == "on":
                text = "on" if value else "off"
            if parameter.required:
                said[slot] = text
            else:
                more.append(source.choice(phrases).replace("{v}", text))
        request = with_phrases(source, request, more)
        said |= {"noun": source.noun(), "adjective": source.choice(words.ADJECTIVES)}
        said |= {"strange": source.choice(source.strange), "few": str(source.integer(2, 9))}
        for slot, text in said.items():
            request = request.replace("{" + slot + "}", text)
        return request, arguments

    name = source.draw("function", make_name)
    description = source.choice(topic.descriptions) if source.chance(0.85) else ""
    if description and source.chance(0.4):
        description = source.choice(ELABORATE).format(
            D=description,
            d=description[0].lower() + description[1:],
            s=description.rstrip("."),
            n=source.noun(),
            a=source.choice(words.ADJECTIVES),
            v=source.choice(words.VERBS),
        )
    return Function(name, description, tuple(slots.values()), ask, any_result, topic.name)
