"""Kinds of values that arguments, JSON fields and facts are made of.

A kind knows the names that a parameter of this kind may have, how its JSON schema looks, how to
draw a value and how people say it ("in Oslo", "for 3 people").
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from training.demo import words
from training.demo.words import Source

Value = Any  # str, int, float, bool or list[str]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of value; `phrases` hold {v} for the value and {l} for the parameter's label."""

    type: str
    names: tuple[str, ...]
    make: Callable[[Source], Value]
    phrases: tuple[str, ...] = ()
    description: str = "The {l}."
    quoted: float = 0.0  # how often the value is said in quotation marks
    closed: tuple[str, ...] = ()  # the only values there are, declared as an enum
    listed: bool = False  # values are words of a list, which both sides of the split use
    items: dict[str, Any] | None = None  # JSON schema of an array's items; None for strings
    speak: Callable[[Source, Value], str] | None = None  # how a request writes the value
    unsaid: Value = None  # the value of a required parameter that a request does not mention


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function or a property of a JSON schema."""

    name: str
    kind: Kind
    required: bool = True
    description: str = ""
    enum: tuple[str, ...] = ()
    default: Value = None

    @property
    def label(self) -> str:
        return self.name.replace("_", " ")

    def schema(self) -> dict[str, Any]:
        """The JSON schema of this parameter."""
        out: dict[str, Any] = {"type": self.kind.type}
        if self.kind.type == "array":
            out["items"] = self.kind.items or {"type": "string"}
        if self.description:
            out["description"] = self.description
        if self.enum:
            out["enum"] = list(self.enum)
        if self.default is not None:
            out["default"] = self.default
        return out


@dataclass(frozen=True)
class Argument:
    """A parameter with its value and the words that carry it in a request."""

    parameter: Parameter
    value: Value
    said: str = field(default="")


def compact_json(arguments: list[Argument]) -> str:
    """The arguments object as the model writes it."""
    return json.dumps(
        {a.parameter.name: a.value for a in arguments}, separators=(",", ":"), ensure_ascii=False
    )


def spoken(value: Value) -> str:
    """A value in running text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    nested = isinstance(value, list) and any(isinstance(part, (list, dict)) for part in value)
    if nested or isinstance(value, dict):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if isinstance(value, list):
        value = [spoken(part) for part in value] or ["nothing"]
        return " and ".join([", ".join(value[:-1]), value[-1]]) if len(value) > 1 else value[0]
    return str(value)


def phrase(source: Source) -> str:
    """One to four words, as a title or a search would have."""
    length = 1 + int(source.random.random() * 3.2)
    picked = [source.choice(words.ADJECTIVES) for _ in range(length - 1)]
    picked.append(source.choice(words.NOUNS))
    draw = source.random.random()
    if draw < 0.3:
        picked = [source.piece() for _ in picked]
    elif draw < 0.5:
        picked = [source.choice(ANY_WORD) for _ in picked]
    text = " ".join(picked)
    if draw < 0.3:
        return text
    if source.chance(0.4):
        text = f"{source.choice(words.CAPITAL).capitalize()} {' '.join(picked[1:])}".strip()
    return text


def person(source: Source) -> str:
    if source.chance(0.4):
        return source.choice(words.FIRST_NAMES)
    return f"{source.choice(words.FIRST_NAMES)} {source.choice(words.LAST_NAMES)}"


def babble(source: Source) -> str:
    """Words that mean nothing, made of any stored tokens."""
    return " ".join(source.choice(source.pieces) for _ in range(source.integer(1, 5)))


def code(source: Source) -> str:
    r = source.random
    letter = source.choice("ABCDEFGHJKLMNPQRSTUVWXYZ")
    two = source.choice("ABCDEHKLMPRSTX") + source.choice("ABCDEHKLMPRSTX")
    return source.choice(
        [
            f"{letter}-{r.randrange(100, 1000)}",
            f"{letter}{r.randrange(10, 1000)}",
            f"{r.randrange(1000, 1000000)}",
            f"{two}-{r.randrange(10, 10000)}",
        ]
    )


def date(source: Source) -> str:
    r = source.random
    return f"{r.randrange(2020, 2031)}-{r.randrange(1, 13):02d}-{r.randrange(1, 29):02d}"


def clock(source: Source) -> str:
    return f"{source.random.randrange(24):02d}:{source.random.randrange(12) * 5:02d}"


def decimal(source: Source) -> float | int:
    """A number with up to two decimals."""
    value = round(source.random.randrange(1, 4000) / source.choice([1, 2, 4, 10, 100]), 2)
    return int(value) if value == int(value) else value


def numbers(source: Source) -> list[int | float]:
    """Two to six numbers, whole ones or with decimals."""
    whole = source.chance(0.7)
    top = source.choice([9, 100, 1000])
    return [
        source.integer(0, top) if whole else decimal(source) for _ in range(source.integer(2, 6))
    ]


def say_numbers(source: Source, value: list[int | float]) -> str:
    """Numbers in a row, as people write them."""
    form = source.choice(["{a}", "{a}", "[{a}]", "{b}", "{c}"])
    texts = [str(v) for v in value]
    return form.format(
        a=source.choice([", ", ", ", ","]).join(texts), b=spoken(texts), c="; ".join(texts)
    )


def _word_list(options: list[str]) -> Callable[[Source], list[str]]:
    return lambda source: source.random.sample(options, source.integer(1, 4))


def _from(options: list[str]) -> Callable[[Source], str]:
    return lambda source: source.choice(options)


def _integer(low: int, high: int) -> Callable[[Source], int]:
    return lambda source: source.integer(low, high)


ANY_WORD = words.NOUNS + words.ADJECTIVES + words.VERBS + words.FOODS + words.ANIMALS + words.JOBS

PERSON = Kind(
    "string",
    _names("name person contact recipient owner author customer guest employee user_name"),
    person,
    ("for {v}", "to {v}", "by {v}", "of {v}"),
    "Name of the {l}.",
)
CITY = Kind(
    "string",
    ("city", "location", "place", "destination", "town", "city_name", "area"),
    _from(words.CITIES),
    ("in {v}", "for {v}", "at {v}"),
    "Name of the city.",
    listed=True,
)
COUNTRY = Kind(
    "string", ("country", "nation", "region"), _from(words.COUNTRIES), ("in {v}",), listed=True
)
LANGUAGE = Kind(
    "string",
    ("language", "target_language", "lang", "to_language"),
    _from(words.LANGUAGES),
    ("in {v}", "into {v}"),
    listed=True,
)
COLOR = Kind("string", ("color", "paint", "shade"), _from(words.COLORS), ("in {v}",), listed=True)
FOOD = Kind(
    "string",
    ("food", "dish", "meal", "product", "item"),
    _from(words.FOODS),
    ("of {v}",),
    listed=True,
)
ANIMAL = Kind(
    "string", ("animal", "pet", "species"), _from(words.ANIMALS), ("for a {v}",), listed=True
)
JOB = Kind(
    "string",
    ("job", "role", "profession", "position"),
    _from(words.JOBS),
    ("as {v}",),
    listed=True,
)
DATE = Kind(
    "string",
    ("date", "day", "start_date", "due_date", "end_date"),
    date,
    ("on {v}", "for {v}"),
    "Date as YYYY-MM-DD.",
)
WEEKDAY = Kind(
    "string",
    ("day", "weekday"),
    _from(words.WEEKDAYS),
    ("on {v}",),
    "Day of the week.",
    listed=True,
)
TIME = Kind(
    "string",
    ("time", "start_time", "at_time", "end_time", "hour"),
    clock,
    ("at {v}", "for {v}"),
    "Time as HH:MM.",
)
TITLE = Kind(
    "string",
    _names("title subject label headline topic keyword query term search_text"),
    phrase,
    ("called {v}", "named {v}", "titled {v}", "about {v}"),
    quoted=0.5,
)
TEXT = Kind(
    "string",
    ("text", "message", "note", "content", "body", "input", "comment", "sentence"),
    phrase,
    ("saying {v}", "with the text {v}", "that says {v}"),
    quoted=0.6,
)
LONG_TEXT = Kind(
    "string",
    ("text", "message", "note", "content", "body", "line", "string", "phrase"),
    babble,
    ("saying {v}", "with the text {v}", "that says {v}", "{v}"),
)
CODE = Kind(
    "string",
    _names("code id order_id item_id reference ticket_id user_id account_id sku key"),
    code,
    ("with id {v}", "number {v}", "{v}", "with code {v}"),
    "Identifier.",
)
FILE = Kind(
    "string",
    ("file", "filename", "path", "file_name"),
    lambda s: f"{s.choice(words.NOUNS)}.{s.choice(['txt', 'csv', 'json', 'py', 'pdf', 'md'])}",
    ("in {v}", "from {v}", "{v}"),
)
EMAIL = Kind(
    "string",
    ("email", "address", "email_address"),
    lambda s: f"{s.choice(words.NOUNS)}@{s.choice(['example', 'mail', 'test'])}.com",
    ("to {v}", "for {v}"),
)
CURRENCY = Kind(
    "string", ("currency", "currency_code"), _from(words.CURRENCIES), ("in {v}",), listed=True
)
TIMEZONE = Kind(
    "string",
    ("timezone", "time_zone", "tz", "zone"),
    _from(words.TIMEZONES),
    ("in {v}",),
    listed=True,
)
UNIT = Kind(
    "string",
    ("unit", "units", "format", "scale"),
    lambda s: "celsius",
    closed=("celsius", "fahrenheit"),
    listed=True,
)
COUNT = Kind(
    "integer",
    ("count", "quantity", "amount", "number", "limit", "copies", "size", "units", "total"),
    _integer(1, 200),
    ("with {l} {v}",),
    "How many.",
)
PEOPLE = Kind(
    "integer",
    ("people", "guests", "seats", "persons", "party_size"),
    _integer(1, 20),
    ("for {v} people", "for {v}"),
)
MINUTES = Kind(
    "integer",
    ("minutes", "duration", "length", "duration_minutes"),
    _integer(1, 180),
    ("for {v} minutes", "of {v} minutes"),
    "Duration in minutes.",
)
AGE = Kind("integer", ("age", "years", "age_years"), _integer(1, 99), ("at age {v}",))
YEAR = Kind("integer", ("year", "since", "model_year"), _integer(1950, 2035), ("from {v}",))
LEVEL = Kind(
    "integer",
    ("level", "volume", "percent", "brightness", "temperature", "speed"),
    _integer(0, 100),
    ("to {v}", "at {l} {v}"),
)
PRICE = Kind(
    "number",
    ("price", "cost", "value", "budget", "weight", "distance", "max_price", "rate"),
    decimal,
    ("with {l} {v}",),
)
FLAG = Kind(
    "boolean",
    _names("enabled urgent active repeat silent public express gift private notify"),
    lambda s: s.chance(0.5),
    (),
    "Whether it is {l}.",
)
ITEMS = Kind(
    "array",
    ("items", "tags", "products", "words", "list", "ingredients"),
    _word_list(sorted({*words.FOODS, *words.NOUNS})),
    ("with {v}",),
)
NAMES = Kind(
    "array",
    ("names", "people", "members", "attendees"),
    _word_list(words.FIRST_NAMES),
    ("with {v}", "for {v}"),
)
ENUM = Kind(
    "string",
    _names("mode type format kind style category priority status unit order method"),
    lambda s: s.noun(),
    ("as {v}", "in {l} {v}"),
    listed=True,
)

NUMBERS = Kind(
    "array",
    ("numbers", "values", "amounts", "points", "scores", "figures"),
    numbers,
    ("of {v}", "with {v}"),
    items={"type": "number"},
    speak=say_numbers,
)

KINDS = (
    *(PERSON, CITY, COUNTRY, LANGUAGE, COLOR, FOOD, ANIMAL, JOB, DATE, WEEKDAY, TIME, TITLE),
    *(TEXT, TITLE, LONG_TEXT, CODE, CODE, FILE, EMAIL, CURRENCY, TIMEZONE, COUNT, PEOPLE, MINUTES),
    *(AGE, YEAR, LEVEL, PRICE, FLAG, ITEMS, NAMES, ENUM, ENUM),
    NUMBERS,
)
COMMON_ENUMS = (
    ("celsius", "fahrenheit"),
    ("low", "medium", "high"),
    ("small", "medium", "large"),
    ("asc", "desc"),
    ("km", "miles"),
    ("on", "off"),
    ("economy", "business", "first"),
    ("public", "private"),
    ("json", "csv", "xml"),
    ("day", "week", "month"),
)


def parameter_name(source: Source, kind: Kind) -> str:
    """A name on this side of the split: one of the kind's, or one with a word before it."""

    def make() -> str:
        name = source.choice(kind.names)
        draw = source.random.random()
        if draw < 0.35:
            return f"{source.noun(0.25)}_{name}"
        if draw < 0.5:
            return f"{source.choice(words.ADJECTIVES)}_{name}"
        if draw < 0.58:
            return f"{source.noun(0.3)}_{source.noun(0.3)}"
        if draw < 0.63:
            return source.small_piece()
        return name

    return source.draw("parameter", make)


UNKNOWN = "?"  # written for words that have no row


def is_free_text(parameter: Parameter) -> bool:
    """Whether any text will do as its value."""
    kind = parameter.kind
    return kind.type == "string" and not (parameter.enum or kind.closed or kind.listed)


def draw_value(source: Source, kind: Kind, enum: tuple[str, ...] = ()) -> Value:
    """A value on this side of the split; small closed sets are shared by both sides."""
    if enum:
        return source.choice(enum)
    if kind.listed or kind.type in ("boolean", "integer"):
        return kind.make(source)
    return source.draw(f"value {kind.names[0]}", lambda: kind.make(source))


def describe(source: Source, kind: Kind, label: str) -> str:
    """What a declaration may say about a parameter; none of it is to be copied."""
    text = kind.description.format(l=label)
    draw = source.random.random()
    if draw < 0.5:
        return text
    example = spoken(kind.make(source))
    if draw < 0.75:
        form = source.choice(
            ["{t}, e.g. {e}", "{t}, for example {e}.", "{t} such as {e}.", "{t} (e.g. {e})",
             "The {l} to use, e.g. {e}", "The {l}, like {e}."]
        )  # fmt: skip
        return form.format(t=text.rstrip("."), e=example, l=label)
    if draw < 0.85 and kind is CITY:
        city = source.choice(words.CITIES)
        area = source.choice(["state", "country"])
        return f"The city and {area}, e.g. {city}, {source.choice(words.COUNTRIES)}"
    more = f"{source.choice(words.VERBS)} the {source.choice(words.ADJECTIVES)} {source.noun()}"
    return source.choice(
        [
            f"{text.rstrip('.')} to {more}.",
            f"{text} Optional.",
            f"{text} Used to {more}.",
            f"Must be a valid {label}.",
        ]
    )


def make_parameter(
    source: Source, kind: Kind, *, name: str | None = None, required: bool = True
) -> Parameter:
    """A parameter of this kind, with or without a description."""
    if name is None:
        name = parameter_name(source, kind)
    enum = kind.closed
    default: Value = None
    if kind is ENUM:
        if source.chance(0.4):
            enum = source.choice(COMMON_ENUMS)
        else:
            options = words.NOUNS + words.ADJECTIVES
            enum = tuple(source.random.sample(options, source.integer(2, 4)))
            if source.chance(0.2):
                enum = (*enum, source.small_piece())
    elif kind is CURRENCY and source.chance(0.3):
        enum = tuple(source.random.sample(words.CURRENCIES, 3))
    if not required and source.chance(0.15) and kind.type in ("string", "integer"):
        default = enum[0] if enum else draw_value(source, kind)
    description = ""
    if source.chance(0.55):
        description = describe(source, kind, name.replace("_", " "))
    return Parameter(name, kind, required, description, enum, default)


def say(source: Source, parameter: Parameter, value: Value, *, natural: bool) -> str:
    """The words of a request that carry this argument.

    `natural` allows phrases without the parameter's label ("in Oslo"); otherwise the label is
    said, so that two parameters of one kind stay apart.
    """
    kind, label = parameter.kind, parameter.label
    if kind.type == "boolean":
        word = source.choice(["on", "yes", "true"] if value else ["off", "no", "false"])
        return source.choice([f"{label} {word}", f"with {label} {word}", f"{label}: {word}"])
    text = spoken(value)
    if kind.speak:
        text = kind.speak(source, value)
    elif (kind.quoted and source.chance(kind.quoted)) or kind is LONG_TEXT:
        text = f'"{text}"'
    if natural and kind.phrases and source.chance(0.6):
        return source.choice(kind.phrases).format(v=text, l=label)
    form = source.choice(
        ["{l} {v}", "with {l} {v}", "{l}: {v}", "{l} = {v}", "the {l} is {v}", "{l} {v}"]
    )
    return form.format(l=label, v=text)
