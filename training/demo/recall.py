"""Facts told early, asked for later."""

from __future__ import annotations

from ossia.turn import ReasoningEffort
from training.demo import values, words
from training.demo.exchange import Answer, Exchange, by_effort
from training.demo.values import Kind
from training.demo.words import Source

OWN = (
    ("name", values.PERSON),
    ("favorite color", values.COLOR),
    ("favorite food", values.FOOD),
    ("favorite animal", values.ANIMAL),
    ("dog's name", values.PERSON),
    ("cat's name", values.PERSON),
    ("boss's name", values.PERSON),
    ("best friend", values.PERSON),
    ("locker code", values.CODE),
    ("order number", values.CODE),
    ("wifi password", values.CODE),
    ("flight number", values.CODE),
    ("pin", values.CODE),
    ("phone number", values.CODE),
    ("home town", values.CITY),
    ("city", values.CITY),
    ("birthday", values.DATE),
    ("deadline", values.DATE),
    ("meeting time", values.TIME),
    ("job", values.JOB),
    ("age", values.AGE),
    ("favorite number", values.COUNT),
    ("room number", values.COUNT),
    ("native language", values.LANGUAGE),
    ("secret word", Kind("string", ("secret",), lambda s: s.piece())),
    ("password", Kind("string", ("password",), lambda s: s.piece())),
)
THING_ATTRIBUTES = (
    ("code", values.CODE),
    ("number", values.CODE),
    ("color", values.COLOR),
    ("price", values.PRICE),
    ("owner", values.PERSON),
    ("city", values.CITY),
    ("weight", values.COUNT),
    ("date", values.DATE),
    ("password", Kind("string", ("password",), lambda s: s.choice(values.ANY_WORD))),
    ("name", values.PERSON),
    ("key", values.CODE),
    ("place", Kind("string", ("place",), lambda s: s.noun(0.3))),
)


class Fact:
    """Something that is so: `whose` is "my"/"your" or a thing that has the attribute."""

    def __init__(self, source: Source) -> None:
        def make() -> str:
            self.thing = ""
            if source.chance(0.45):
                self.attribute, kind = source.choice(OWN)
                if source.chance(0.1):
                    self.attribute = (
                        f"{source.choice(words.ADJECTIVES)} {source.choice(words.NOUNS)}"
                    )
            else:
                self.attribute, kind = source.choice(THING_ATTRIBUTES)
                self.thing = source.noun(0.2)
                if source.chance(0.6):
                    self.thing = f"{source.choice(words.ADJECTIVES)} {self.thing}"
                elif source.chance(0.3):
                    self.thing = source.choice(words.FIRST_NAMES)
            self.value = values.spoken(kind.make(source))
            return f"{self.attribute} of {self.thing}: {self.value}"

        source.draw("fact", make)

    @property
    def key(self) -> tuple[str, str]:
        return self.thing, self.attribute

    def subject(self, own: str) -> str:
        """ "my locker code" (own is "my" or "your") or "the code of the blue lamp"."""
        if not self.thing:
            return f"{own} {self.attribute}"
        article = "" if self.thing[0].isupper() else "the "
        return f"the {self.attribute} of {article}{self.thing}"

    def told(self, source: Source) -> str:
        """A sentence of the user that states the fact."""
        subject = self.subject("my")
        if not self.thing and self.attribute == "name" and source.chance(0.4):
            return source.choice(["I am {v}.", "Call me {v}.", "I'm {v}."]).format(v=self.value)
        form = source.choice(
            ["{S} is {v}.", "{S} is {v}.", "Remember that {s} is {v}.", "Note: {s} is {v}.",
             "Please remember: {s} is {v}.", "FYI, {s} is {v}.", "By the way, {s} is {v}.",
             "{S}: {v}", "{S} = {v}", "You should know that {s} is {v}.", "keep in mind {s} is {v}"]
        )  # fmt: skip
        return form.format(s=subject, S=subject[0].upper() + subject[1:], v=self.value)

    def asked(self, source: Source) -> str:
        subject = self.subject("my")
        form = source.choice(
            ["What is {s}?", "What is {s}?", "Do you remember {s}?", "What's {s}?", "Tell me {s}.",
             "Can you tell me {s}?", "what was {s}", "{S}?", "Remind me, what is {s}?",
             "What did I say {s} is?", "I forgot {s}. What is it?"]
        )  # fmt: skip
        return form.format(s=subject, S=subject[0].upper() + subject[1:])

    def stated(self) -> str:
        """The answer."""
        subject = self.subject("your")
        return f"{subject[0].upper()}{subject[1:]} is {self.value}."


def distinct_facts(source: Source, count: int) -> list[Fact]:
    facts: dict[tuple[str, str], Fact] = {}
    while len(facts) < count:
        fact = Fact(source)
        facts.setdefault(fact.key, fact)
    return list(facts.values())


def question(source: Source, fact: Fact, effort: ReasoningEffort, *, known: bool) -> Exchange:
    """Asking for a fact that was told before, or that never was."""
    if known:
        text = fact.stated()
        reasoning = by_effort(
            effort,
            f"I recall {fact.value}.",
            f"The user told me this before: {fact.value}.",
            f"I look for {fact.subject('your')} in the conversation and find {fact.value}.",
        )
    else:
        text = f"I don't know {fact.subject('your')}: it was not mentioned."
        reasoning = by_effort(
            effort,
            "Not mentioned.",
            "The user did not tell me this before.",
            f"I look for {fact.subject('your')} in the conversation and find nothing.",
        )
    return Exchange("recall", fact.asked(source), (), Answer(reasoning, text))


def noted(source: Source, facts: list[Fact], effort: ReasoningEffort) -> Exchange:
    """The user tells facts; the assistant takes note."""
    user = " ".join(f.told(source) for f in facts)
    reasoning = by_effort(
        effort, "Take note.", "The user tells me something to remember.", "I only confirm it."
    )
    return Exchange("note", user, (), Answer(reasoning, "Noted."))


def filler(source: Source, sentences: int, strange: list[str]) -> str:
    """Running text without facts; `strange` holds words outside the stored vocabulary."""
    out = []
    for _ in range(sentences):
        c = source.choice
        draw = source.random.random()
        if draw < 0.5:
            s = f"The {c(words.ADJECTIVES)} {c(words.NOUNS)} is near the {c(words.NOUNS)}."
        elif draw < 0.7:
            deed = f"{c(words.VERBS)} {c(words.NOUNS)}s in {c(words.CITIES)}"
            s = f"{c(words.FIRST_NAMES)} likes to {deed}."
        elif draw < 0.8:
            deed = f"{c(words.VERBS)} {source.integer(2, 999)} {c(words.NOUNS)}s"
            s = f"On {c(words.WEEKDAYS)} we {deed}."
        elif draw < 0.9:
            s = " ".join(c(values.ANY_WORD) for _ in range(source.integer(3, 9))) + "."
        else:
            who = f"the {c(words.JOBS)} and the {c(words.ANIMALS)}"
            s = f"Then {who} {c(words.VERBS)} {c(strange)}."
        out.append(s)
    return " ".join(out)
