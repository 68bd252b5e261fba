# ruff: noqa: RUF001  # texts in other scripts
"""Kinds of values of text tools, tables and charts: markup, foreign text, columns, points."""

from __future__ import annotations

import json

from training.demo import words
from training.demo.results import FIELDS
from training.demo.values import COUNT, TITLE, Kind, Value, decimal, phrase
from training.demo.words import Source

GREETINGS = """
Buenas noches|Muchas gracias por todo|Me gusta la casa blanca|¿Dónde está la playa?|Hasta luego
Buenas tardes, amigo|El libro es muy bueno|Vamos a comer|Buenos días|¿Cómo está usted?
Bonsoir|Merci beaucoup|Comment ça va ?|Je suis à la maison|Il fait froid ce matin|Bonjour
Tout va bien|Le monde est grand|Où est la gare ?|Au revoir, mon ami|Bonjour à tous
Guten Abend|Gute Nacht|Wie geht es dir?|Das Haus ist groß|Vielen Dank|Ich habe keine Zeit
Guten Tag, wie geht es Ihnen?|Bis morgen|Der Morgen ist kalt|Wo ist der Bahnhof?
Buongiorno|Grazie mille|Come stai?|La vita è bella|Dove siamo?|A domani|Ciao a tutti
Bom dia|Obrigado|Como você está?|Boa noite|Eu não sei|Tudo bem?|Até amanhã
Goedemorgen|Dank je wel|Hoe gaat het?|Ik weet het niet|Tot ziens
God morgen|Tack så mycket|Hur mår du?|Jag vet inte|Hyvää huomenta
Dzień dobry|Dziękuję|Jak się masz?|Merhaba|Teşekkür ederim|Nasılsın?
Привет|Доброе утро|Как вы?|Спасибо|Я не знаю|Как дела сегодня?|Добрый день, друзья
こんにちは|おはようございます|ありがとう|元気です|お元気ですか|これは何ですか？
你好|谢谢你|早上好|你好吗？|再见|안녕하세요|감사합니다|안녕히 가세요
مرحبا|شكرا|صباح الخير|नमस्ते|धन्यवाद|שלום|Καλημέρα|Ευχαριστώ
Good evening everybody|How do you do?|Where are we going?|The house is cold this morning
"""
FOREIGN_TEXTS = GREETINGS.strip().replace("\n", "|").split("|")


def foreign(source: Source) -> str:
    """A short text in one of many languages."""
    text = source.choice(FOREIGN_TEXTS)
    if source.chance(0.2):
        text = f"{text} {source.choice(FOREIGN_TEXTS)}"
    return text


def said_text(source: Source, value: Value) -> str:
    """A text in quotation marks of some kind, or as it is."""
    form = source.choice(['"{}"', '"{}"', "'{}'", "'{}'", "`{}`", "{}", "\n\n{}", "“{}”"])
    return form.format(value)


def markup(source: Source) -> str:
    """A piece of Markdown."""
    one, two = phrase(source), phrase(source)
    word = source.choice(words.NOUNS)
    return source.choice(
        [
            f"# {one}", f"## {one}", f"### {one}", f"**{one}**", f"*{one}*", f"> {one}",
            f"- {one}\n- {two}", f"1. {one}\n2. {two}", f"# {one}\n\n{two}", f"`{word}`",
            f"# {one}\n\n{two} *{word}*.", f"{one} **{word}**", f"[{one}](https://{word}.com)",
            f"* {one}\n* {two}\n* {word}", f"# {one}\n## {two}", f"- {word} 1\n- {word} 2",
        ]
    )  # fmt: skip


def identifier(source: Source) -> str:
    """A name as tables and columns have it."""
    draw = source.random.random()
    if draw < 0.35:
        return source.choice(FIELDS)
    if draw < 0.7:
        return source.noun()
    return f"{source.choice(words.NOUNS)}_{source.choice(FIELDS)}"


def table(source: Source) -> str:
    draw = source.random.random()
    if draw < 0.4:
        return f"{source.choice(words.NOUNS)}s"
    if draw < 0.7:
        return f"{source.choice(words.NOUNS)}_{source.choice(words.NOUNS)}"
    return source.choice(words.NOUNS)


def columns(source: Source) -> list[str]:
    return list(dict.fromkeys(identifier(source) for _ in range(source.integer(1, 4))))


def condition(source: Source) -> str:
    """A condition as SQL writes it after WHERE."""
    name = identifier(source)
    text = source.choice([source.noun(), source.choice(words.CITIES), source.choice(words.COLORS)])
    number = source.integer(0, 999)
    return source.choice(
        [f"{name} = '{text}'", f"{name} = {number}", f"{name} > {number}", f"{name} < {number}"]
    )


def points(source: Source) -> list[list[int | float]]:
    """Two to six points of a chart."""
    whole, numbered = source.chance(0.7), source.chance(0.5)
    top = source.choice([9, 99, 200])
    out: list[list[int | float]] = []
    for index in range(source.integer(2, 6)):
        x = index + 1 if numbered else source.integer(0, 99)
        y: int | float = source.integer(0, top)
        if not whole and source.chance(0.7):
            y = decimal(source) if source.chance(0.5) else source.integer(1, 99) / 10
        out.append([x, int(y) if y == int(y) else y])
    return out


def say_points(source: Source, value: list[list[int | float]]) -> str:
    """Points in brackets, or only their heights where they are numbered from 1."""
    numbered = [x for x, _ in value] == list(range(1, len(value) + 1))
    if numbered and source.chance(0.6):
        return source.choice([", ", ", ", ","]).join(str(y) for _, y in value)
    joiner, inner = source.choice([", ", ",", " "]), source.choice([", ", ",", ","])
    if source.chance(0.5):
        return joiner.join(f"({x}{inner}{y})" for x, y in value)
    text = json.dumps(value, separators=(source.choice([",", ", "]), ":"))
    return f"[ {text[1:-1]} ]" if source.chance(0.3) else text


def url(source: Source) -> str:
    place = source.choice(["", "www.", "docs."])
    page = source.choice(["", f"/{source.choice(words.NOUNS)}"])
    return (
        f"https://{place}{source.choice(words.NOUNS)}.{source.choice(['com', 'org', 'net'])}{page}"
    )


SAMPLE = Kind(
    "string",
    ("text", "input", "content", "sentence", "document", "string", "passage"),
    lambda s: foreign(s) if s.chance(0.3) else phrase(s),
    description="The {l} to look at.",
    speak=said_text,
)
FOREIGN = Kind(
    "string",
    ("text", "input", "sentence", "content", "phrase", "sample"),
    foreign,
    description="The {l} to look at.",
    listed=True,
    speak=said_text,
)
MARKUP = Kind(
    "string",
    ("markdown", "text", "source", "content", "markup", "document", "input"),
    markup,
    description="{l} as Markdown.",
    speak=said_text,
)
WORD = Kind("string", ("word", "term", "expression"), lambda s: s.piece(), listed=True)
URL = Kind("string", ("url", "link", "page", "address", "website"), url, ("from {v}", "at {v}"))
TABLE = Kind("string", ("table", "table_name", "collection", "source"), table, ("from {v}",))
COLUMNS = Kind(
    "array",
    ("columns", "fields", "column_names", "select", "keys"),
    columns,
    description="Names of the {l}.",
    unsaid=["*"],
)
CONDITION = Kind(
    "string",
    ("filters", "where", "condition", "filter", "predicate"),
    condition,
    description="Which rows: {l} as in SQL.",
)
ORDER = Kind(
    "string",
    ("order_by", "sort", "sort_by", "ordering"),
    lambda s: f"{identifier(s)} {s.choice(['ASC', 'DESC'])}",
)
ROWS = Kind(COUNT.type, ("limit", "max_rows", "top", "count", "rows"), COUNT.make)
POINTS = Kind(
    "array",
    ("data", "points", "series", "values", "rows", "matrix"),
    points,
    description="Pairs of numbers.",
    items={"type": "array", "items": {"type": "number"}},
    speak=say_points,
)
CHART = Kind(
    "string",
    ("chart_type", "type", "kind", "style", "chart"),
    lambda s: "line",
    description="Type of the chart.",
    closed=("line", "bar", "scatter"),
    listed=True,
)
X_AXIS = Kind("string", ("x_label", "x_axis", "x_axis_label", "x_title"), TITLE.make)
Y_AXIS = Kind("string", ("y_label", "y_axis", "y_axis_label", "y_title"), TITLE.make)
PICTURE = Kind(
    "string", ("prompt", "description", "subject", "picture"), phrase, ("of {v}",), quoted=0.3
)
