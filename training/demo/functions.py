"""Functions of a request: everyday ones, made-up ones, sums of two numbers, and bystanders."""

from __future__ import annotations

from training.demo import values, words
from training.demo.arithmetic import ask_pair
from training.demo.declared import Function, camel, given
from training.demo.everyday import everyday
from training.demo.results import any_result
from training.demo.values import Argument, Kind, Parameter
from training.demo.words import Source

PAIR_OF = {"add": "+", "sum": "+", "subtract": "-", "multiply": "*", "divide": "/"}


BY_NOUN = [
    "{t} please", "Need the {t}", "I need a {t}", "What about the {t}?", "the {t}", "{T}",
    "What is the {t}?", "Can I have the {t}", "Give me the {t}", "Get me a {t}", "The {t}, please",
    "{T} needed", "I want the {t}", "Do the {t}", "Quick, the {t}", "What's the current {t}?",
    "Is there a {t}?", "How is the {t}?", "Let me see the {t}", "Could I get a {t}",
]  # fmt: skip


def made_up(source: Source, relative: Function | None = None) -> Function:
    """A function nobody has seen: verb and noun at random, parameters of any kinds.

    A relative shares its verb or its noun with this function, and no more.
    """
    verb = noun = thing = ""

    def make_name() -> str:
        nonlocal verb, noun, thing
        verb, noun = source.choice(words.VERBS), source.noun()
        if relative is not None and relative.relatives[0]:
            if source.chance(0.5) or not relative.relatives[1]:
                verb = relative.relatives[0]
            else:
                noun = relative.relatives[1]
        thing = f"{source.choice(words.ADJECTIVES)} {noun}" if source.chance(0.3) else noun
        snake = f"{verb}_{thing.replace(' ', '_')}"
        draw = source.random.random()
        if draw < 0.06 and noun in words.CAPITAL:
            thing = noun
            return camel(f"{verb}_{noun}")
        if draw < 0.12 and thing in words.NOUNS_FIRST:
            return f"{thing}_{verb}"
        if draw < 0.2:
            return f"{source.choice(words.NOUNS_FIRST)}_{source.noun()}"
        if draw < 0.3:
            return f"{snake}_{source.noun()}"
        return snake

    name = source.draw("function", make_name)
    says_itself = verb in name and noun.lower() in name.lower()
    description = ""
    if not says_itself or source.chance(0.7):
        form = source.choice(
            ["{V} a {t}.", "{V} the {t}.", "{V}s a {t} for the user.", "Use this to {v} a {t}.",
             "{V} {t}", "Function to {v} the {t}.", "{V}s the {t}\N{EM DASH}use for {a} {n}s.",
             "{V}s the current {t} of the {n}\N{EM DASH}use before you go on.",
             "{V} a {t}; the {n} must be {a}."]
        )  # fmt: skip
        description = form.format(
            V=verb.capitalize(),
            v=verb,
            t=thing,
            n=source.noun(),
            a=source.choice(words.ADJECTIVES),
        )
    kinds = source.random.sample(values.KINDS, source.choice([0, 1, 1, 1, 2, 2, 2, 3, 3, 4]))
    if len(kinds) > 1 and source.chance(0.2):
        kinds[1] = kinds[0]
    parameters: list[Parameter] = []
    for index, kind in enumerate(kinds):
        required = index == 0 or source.chance(0.6)
        parameter = values.make_parameter(source, kind, required=required)
        if all(parameter.name != other.name for other in parameters):
            parameters.append(parameter)
    by_noun = source.chance(0.25)  # requests that leave the verb out
    alone = len({p.kind for p in parameters}) == len(parameters)
    texts = [p for p in parameters if p.kind.type == "string" and p.kind.phrases]
    natural_for = set(parameters) if alone and len(texts) < 2 else set()
    if alone and texts:
        natural_for.add(texts[0])

    def ask(source: Source) -> tuple[str, list[Argument]]:
        head = source.choice(
            BY_NOUN if by_noun else
            ["{V} the {t}", "{V} a {t}", "Please {v} the {t}", "Can you {v} a {t}",
             "I need to {v} a {t}", "I want to {v} the {t}", "{V} {t}", "Could you {v} my {t}",
             "Would you {v} the {t}", "Help me {v} the {t}", "{v} the {t}", "Let's {v} a {t}"]
        ).format(V=verb.capitalize(), v=verb, t=thing, T=thing.capitalize())  # fmt: skip
        if parameters:
            head = head.rstrip("?")
        arguments = []
        for parameter in given(source, tuple(parameters)):
            value = values.draw_value(source, parameter.kind, parameter.enum)
            natural = parameter in natural_for
            said = values.say(source, parameter, value, natural=natural)
            arguments.append(Argument(parameter, value, said))
        order = list(arguments)
        if source.chance(0.2):
            source.random.shuffle(order)
        joiner = source.choice([", ", ", ", " and ", "; "])
        request = head + (" " if source.chance(0.6) else ": ") + joiner.join(a.said for a in order)
        ending = source.choice(["", ".", ".", "?" if head.startswith(("Can", "Could")) else "."])
        return request.strip(" :") + ending, arguments

    shared = "" if by_noun else noun
    return Function(
        name, description, tuple(parameters), ask, any_result, f"{verb} {noun}", (verb, shared)
    )


def number_pair(source: Source) -> Function:
    """add(a, b) and its relatives."""
    base = source.choice(sorted(PAIR_OF))

    def make_name() -> str:
        ending = source.choice(["", "", "_numbers", "_two_numbers", "_values", "_integers"])
        return f"{base}{ending}"

    name = make_name()
    first, second = source.choice([("a", "b"), ("x", "y"), ("first", "second"), ("left", "right")])
    kind = values.COUNT if source.chance(0.5) else values.PRICE
    number = Kind(kind.type, (first,), lambda s: s.integer(0, 9999))
    parameters = (
        values.make_parameter(source, number, name=first),
        values.make_parameter(source, number, name=second),
    )

    def ask(source: Source) -> tuple[str, list[Argument]]:
        left, right = source.integer(0, 9999), source.integer(0, 9999)
        if source.chance(0.5):
            left, right = source.integer(0, 99), source.integer(1, 99)
        request = ask_pair(source, left, PAIR_OF[base], right)
        return request, [Argument(parameters[0], left), Argument(parameters[1], right)]

    def result(source: Source, arguments: list[Argument]) -> str:
        left, right = arguments[0].value, arguments[1].value
        answer = {
            "+": left + right,
            "-": left - right,
            "*": left * right,
            "/": round(left / right, 2) if right else 0,
        }[PAIR_OF[base]]
        return str(answer)

    words_of = {"+": "Add", "-": "Subtract", "*": "Multiply", "/": "Divide"}[PAIR_OF[base]]
    description = f"{words_of} two numbers." if source.chance(0.8) else ""
    return Function(name, description, parameters, ask, result, PAIR_OF[base])


def any_function(source: Source) -> Function:
    draw = source.random.random()
    if draw < 0.5:
        return everyday(source)
    if draw < 0.54 and not source.held_out:
        return number_pair(source)
    return made_up(source)


# Everyday functions that an off-topic question could be put to.
ANSWER_ANYTHING = {
    "Search for something.",
    "Look up a person.",
    "Get the price of a product or share.",
    "Play music.",
    "Read a file.",
    "Find a connection between two cities.",
    "Distance between two cities.",
    "Add a product to the shopping list.",
    "Look up a word in the dictionary.",
    "Draw a picture.",
    "Find a recipe.",
    "The latest news.",
    "Open a ticket.",
    "Identify the language of a text.",
    "Find the sentiment of a text.",
    "Summarize a text.",
    "Correct the spelling of a text.",
}
# Those that small talk or a sum could be put to.
ANSWER_TALK = {
    "Report the health of the system.",
    "The user who is logged in.",
    "Stop what is playing.",
    "Statistics of a list of numbers.",
}


def declared_besides(source: Source, main: Function | None, *, off_topic: bool) -> list[Function]:
    """Other functions of the same request; none of them could serve it."""
    others: list[Function] = []
    taken = {main.topic} if main else set()
    names = {main.name} if main else set()
    for _ in range(source.choice([0, 0, 1, 1, 2, 3, 4, 5])):
        if main is not None and main.relatives[0] and source.chance(0.25):
            other = made_up(source, main)
        else:
            other = any_function(source)
        arithmetic = other.topic in PAIR_OF.values()
        if other.topic in taken or other.name in names:
            continue
        if other.topic in ANSWER_TALK and (main is None or main.topic in PAIR_OF.values()):
            continue
        if main is None and (arithmetic or (off_topic and other.topic in ANSWER_ANYTHING)):
            continue
        taken.add(other.topic)
        names.add(other.name)
        others.append(other)
    return others
