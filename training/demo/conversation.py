"""Whole conversations: a system message, tools, some history, and an exchange to learn from."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace

from ossia.turn import (
    AssistantMessage,
    Instructions,
    Item,
    ToolCall,
    ToolDefinition,
    ToolResult,
    Turn,
    UserMessage,
)
from training.demo import arithmetic, chat, forms, functions, recall, values, words
from training.demo.declared import Function
from training.demo.exchange import HIGH, LOW, MEDIUM, Answer, Call, Exchange, by_effort
from training.demo.results import report
from training.demo.words import Source

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a helpful assistant.",
    "You are a friendly assistant. Be brief.",
    "Answer the user's questions.",
    "Be concise.",
    "Use the functions when they help.",
    "You are a polite agent of a small company.",
    "Help the user with their tasks.",
    "Always be honest.",
    "You are an expert.",
    "Only call a function when it is needed.",
    "You can use tools.",
    "Answer in English.",
    "Use a friendly tone.",
    "Be kind and short.",
    "Do what the user asks.",
    "You are a demo.",
    "You are a bot in a chat window.",
    "Think before you answer.",
]
IDENTITIES = [
    "You are a helpful assistant.",
    "You are Ossia, a demonstration model.",
    "You are a large language model.",
    "You are an assistant.",
    "You are ChatGPT.",
]
SKILLS = {
    "chat": 0.12,
    "arithmetic": 0.14,
    "calculator": 0.09,
    "function": 0.32,
    "echo": 0.06,
    "time": 0.04,
    "date": 0.01,
    "schema": 0.12,
    "recall": 0.1,
}


@dataclass(frozen=True)
class Conversation:
    """`turn` ends where the assistant is to speak; `exchange` is what it does then."""

    turn: Turn
    exchange: Exchange


def converse(
    source: Source, skill: str | None = None, main: Function | None = None
) -> Conversation:
    """A conversation of this skill, or of any by the shares above.

    `main` is the function that the user asks for, with the skill "function".
    """
    if skill is None:
        skill = source.random.choices(list(SKILLS), list(SKILLS.values()))[0]
    effort = source.choice([LOW, MEDIUM, MEDIUM, HIGH])
    date = None
    if source.chance(0.7):
        date = datetime.date(2000, 1, 1) + datetime.timedelta(days=source.integer(0, 14000))
    identity = Turn(items=()).identity if source.chance(0.85) else source.choice(IDENTITIES)
    system = Turn(items=(), effort=effort, date=date, identity=identity)
    if skill == "recall":
        return _recall(source, system)

    if skill == "function":
        main = main or functions.any_function(source)
        exchange = call_function(source, main, effort)
        if source.chance(0.1):
            exchange = call_two(source, main, effort)
    elif skill == "arithmetic":
        exchange = arithmetic.in_the_head(source, effort)
    elif skill == "calculator":
        exchange = arithmetic.with_calculator(source, effort)
    elif skill == "echo":
        exchange = echo(source, effort)
    elif skill == "time":
        exchange = tell_time(source, effort)
    elif skill == "date":
        exchange = tell_date(source, system)
    elif skill == "schema":
        exchange = forms.fill_schema(source, effort)
    else:
        exchange = chat.chat(source, effort)
    if skill in ("function", "calculator", "arithmetic"):
        exchange = replace(exchange, user=chat.roughen(source, exchange.user))

    tools = list(exchange.tools)
    if skill != "schema" and (tools or source.chance(0.45)):
        others = functions.declared_besides(source, main, off_topic=main is None)
        tools += [f.definition() for f in others if f.name not in {t.name for t in tools}]
        if exchange.calls or skill in ("chat", "date"):
            tools += _common_tools(source, {t.name for t in tools}, main, skill)
        source.random.shuffle(tools)
    if exchange.calls and effort is HIGH and len(tools) < 7:
        exchange = _list_declared(exchange, tools)

    items: list[Item] = _instructions(source, exchange.instructions)
    if skill != "schema" and source.chance(0.4):
        for _ in range(source.choice([1, 1, 2, 3])):
            items += _history(source, main, system, tools)
    items.append(UserMessage(exchange.user))
    return Conversation(replace(system, items=tuple(items), tools=tuple(tools)), exchange)


def call_function(source: Source, function: Function, effort: str) -> Exchange:
    """Ask for a function, call it, report its result."""
    user, arguments = function.ask(source)
    known = ", ".join(f"{a.parameter.label} {values.spoken(a.value)}" for a in arguments)
    reasoning = by_effort(
        effort,
        f"Call {function.name}.",
        f"{function.name} fits: {known}." if known else f"{function.name} fits, without arguments.",
        "I take the arguments from the user's words.",
    )
    result = function.result(source, arguments)
    call = Call(reasoning, function.name, values.compact_json(arguments), result)
    return Exchange(
        "function",
        user,
        (call,),
        Answer(_after(effort, function.name), report(result)),
        (function.definition(),),
    )


def call_two(source: Source, first: Function, effort: str) -> Exchange:
    """Two requests in one message: two calls, one after the other, then one answer."""
    second = functions.any_function(source)
    while second.topic == first.topic or second.name == first.name:
        second = functions.any_function(source)
    one, two = (call_function(source, f, effort) for f in (first, second))
    form = source.choice(["{}. Then {}", "{}. After that, {}", "{}\n{}", "First: {}. Then: {}"])
    return Exchange(
        "function",
        form.format(one.user.rstrip("."), two.user),
        (*one.calls, *two.calls),
        Answer(two.answer.reasoning, f"{one.answer.text} {two.answer.text}"),
        (*one.tools, *two.tools),
    )


def _after(effort: str, name: str) -> str:
    return by_effort(
        effort,
        "Report it.",
        f"{name} has answered; I report the result.",
        "Nothing else has to be called.",
    )


def _list_declared(exchange: Exchange, tools: list[ToolDefinition]) -> Exchange:
    names = ", ".join(t.name for t in tools)
    first, *rest = exchange.calls
    first = replace(first, reasoning=f"Declared: {names}. {first.reasoning}")
    return replace(exchange, calls=(first, *rest))


def echo(source: Source, effort: str) -> Exchange:
    """The echo tool: repeat a text."""
    name = source.choice(
        ["echo", "echo", "echo", "repeat", "echo_text", "say", "repeat_text", "parrot", "mirror"]
    )
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    description = source.choice(
        [
            "Returns the text.",
            "Repeat the text.",
            "Echoes its input.",
            "Returns the text it is given.",
            "",
        ]
    )
    tool = ToolDefinition(name, description, schema)

    def make() -> str:
        draw = source.random.random()
        if draw < 0.5:
            return values.babble(source)
        if draw < 0.6:
            return values.phrase(source)
        if draw < 0.75:
            greeting = source.choice(["hello", "Hello", "good morning", "hi"])
            return f"{greeting} {source.choice(words.NOUNS)}"
        text = recall.filler(source, 1, list(source.pieces))
        return text if draw < 0.9 else text.rstrip(".")

    text = source.draw("echo", make)
    verb = source.choice(
        ["Echo", "Repeat", "Say", "echo", "repeat", "Please echo", "Please repeat", "Echo this"]
    )
    form = source.choice(
        ['{V} "{t}"', "{V}: {t}", '{V}: "{t}"', 'Use {n} to repeat "{t}"',
         'Use the {n} tool with "{t}"', 'Call {n} with the text "{t}"', "{n} {t}",
         "Run {n} on: {t}", "Repeat after me: {t}"]
    )  # fmt: skip
    user = form.format(V=verb, t=text, n=name)
    reasoning = by_effort(
        effort,
        f"Call {name}.",
        f"{name} fits: text {text}.",
        "I take the arguments from the user's words.",
    )
    call = Call(reasoning, name, values.json.dumps({"text": text}, separators=(",", ":")), text)
    answer = Answer(_after(effort, name), f"The echo is: {text}")
    return Exchange("echo", user, (call,), answer, (tool,))


def tell_time(source: Source, effort: str) -> Exchange:
    """The time tool, with or without a time zone."""
    name = source.choice(
        ["time", "get_time", "current_time", "clock", "now", "get_current_time", "what_time"]
    )
    zone: dict[str, object] = {"type": "string"}
    if source.chance(0.5):
        zone["description"] = source.choice(
            ["Time zone, such as Europe/Paris.", "IANA time zone", "UTC if absent."]
        )
    parameter = "timezone" if source.chance(0.8) else source.choice(["tz", "time_zone", "zone"])
    schema = {"type": "object", "properties": {parameter: zone}}
    if source.chance(0.5):
        schema["required"] = []
    description = source.choice(
        [
            "Current time.",
            "Returns the current time.",
            "The time now, in a time zone.",
            "What time it is.",
            "",
        ]
    )
    tool = ToolDefinition(name, description, schema)
    user = source.choice(
        ["What time is it?", "what's the time", "Tell me the time", "Current time please", "time?",
         "Do you know what time it is?", "What is the current time?", "How late is it?", "time now"]
    )  # fmt: skip
    arguments, told = "{}", "without arguments"
    if source.chance(0.6):
        value = source.choice(words.TIMEZONES)
        place = value
        if "/" in value and source.chance(0.4):
            place = value.split("/")[1].replace("_", " ")
        user = user.rstrip("?").rstrip() + f" in {place}" + ("?" if "?" in user else "")
        arguments, told = f'{{"{parameter}":"{value}"}}', f"{parameter.replace('_', ' ')} {value}"
    reasoning = by_effort(
        effort,
        f"Call {name}.",
        f"{name} fits: {told}.",
        "I take the arguments from the user's words.",
    )
    result = source.choice(
        [values.clock(source), f"{values.date(source)}T{values.clock(source)}:00"]
    )
    draw = source.random.random()
    if draw < 0.2:
        result += source.choice([" UTC", "+00:00", "Z"])
    text = f"It is {result}."
    if draw > 0.75:
        result = f'{{"time": "{result}"}}'
    call = Call(reasoning, name, arguments, result)
    return Exchange("time", user, (call,), Answer(_after(effort, name), text), (tool,))


def tell_date(source: Source, system: Turn) -> Exchange:
    """Today's date stands in the system message, or it does not."""
    user = source.choice(
        ["What is the date today?", "What day is it?", "today's date?", "Which date is it?",
         "What's today's date", "Tell me the date", "what is the current date"]
    )  # fmt: skip
    if system.date is None:
        text, why = "I don't know the date: it was not given to me.", "No date was given to me."
    else:
        text = f"The date is {system.date.isoformat()}."
        why = f"The system message says {system.date.isoformat()}."
    reasoning = by_effort(
        system.effort, "The date.", f"The user asks for the date. {why}", "That is all I know."
    )
    return Exchange("date", user, (), Answer(reasoning, text))


def _common_tools(
    source: Source, taken: set[str], main: Function | None, skill: str
) -> list[ToolDefinition]:
    """The calculator, echo and time tools stand by in many requests."""
    tools = []
    arithmetic_besides = main is not None and main.topic in functions.PAIR_OF.values()
    if skill != "calculator" and not arithmetic_besides and source.chance(0.25):
        tools.append(arithmetic.calculator_tool(source))
    if skill != "echo" and source.chance(0.2):
        tools.append(echo(source, LOW).tools[0])
    if skill not in ("time", "date") and source.chance(0.2):
        tools.append(tell_time(source, LOW).tools[0])
    return [t for t in tools if t.name not in taken]


def _instructions(source: Source, schema: str) -> list[Item]:
    text = ""
    if source.chance(0.5):
        text = source.choice(SYSTEM_PROMPTS)
        if source.chance(0.2):
            text += " " + recall.filler(source, 1, list(source.strange))
    if schema and text and source.chance(0.5):
        return [Instructions(f"{text}\n\n{schema}")]
    return [Instructions(part) for part in (text, schema) if part]


def _history(
    source: Source, main: Function | None, system: Turn, tools: list[ToolDefinition]
) -> list[Item]:
    """An exchange that is over."""
    effort = system.effort
    with_sums = any("expression" in str(t.parameters) or t.name in functions.PAIR_OF for t in tools)
    draw = source.random.random()
    if main is not None and draw < 0.5:
        return past(call_function(source, main, effort))
    if draw < 0.7 and not with_sums:
        return past(arithmetic.in_the_head(source, effort))
    if draw < 0.8:
        return past(recall.noted(source, recall.distinct_facts(source, 1), effort))
    return past(chat.chat(source, effort))


def past(exchange: Exchange) -> list[Item]:
    """The exchange as later turns see it: without its reasoning."""
    items: list[Item] = [UserMessage(exchange.user)]
    for index, call in enumerate(exchange.calls):
        items.append(ToolCall(f"call_{index}", call.name, call.arguments))
        items.append(ToolResult(f"call_{index}", call.name, call.result))
    return [*items, AssistantMessage(exchange.answer.text)]


LONGEST = 360  # sentences of filler; about 4,000 tokens


def _recall(source: Source, system: Turn) -> Conversation:
    """Facts, then other things for up to about 4,000 tokens, then the question."""
    facts = recall.distinct_facts(source, source.choice([1, 1, 2, 3, 4, 6, 10]))
    asked = source.choice(facts)
    known = not source.chance(0.15)
    told = [f for f in facts if known or f is not asked]
    exchange = recall.question(source, asked, system.effort, known=known)
    draw = source.random.random()
    length = 0 if draw < 0.15 else int(LONGEST ** source.random.random())
    if draw > 0.7:
        length = source.integer(0, LONGEST)
    tools = []
    if source.chance(0.2):
        tools = [f.definition() for f in functions.declared_besides(source, None, off_topic=True)]

    items: list[Item] = _instructions(source, "")
    draw = source.random.random()
    if draw < 0.1 and told:
        items.append(Instructions(" ".join(f.told(source) for f in told)))
    elif draw < 0.4 and told:
        return _recall_in_one_message(source, system, items, told, exchange, length, tools)
    else:
        together = source.chance(0.5)
        groups = [told] if together else [[f] for f in told]
        for group in groups:
            if group:
                items += past(recall.noted(source, group, system.effort))
    while length > 0:
        if source.chance(0.25):
            items += past(chat.chat(source, system.effort))
            length -= 4
        elif source.chance(0.2) and not tools:
            items += past(arithmetic.in_the_head(source, system.effort))
            length -= 3
        else:
            sentences = min(length, source.integer(1, 120))
            text = recall.filler(source, sentences, list(source.strange))
            items += [UserMessage(text), AssistantMessage("Noted.")]
            length -= sentences
    items.append(UserMessage(exchange.user))
    return Conversation(replace(system, items=tuple(items), tools=tuple(tools)), exchange)


def _recall_in_one_message(
    source: Source,
    system: Turn,
    items: list[Item],
    told: list[recall.Fact],
    exchange: Exchange,
    length: int,
    tools: list[ToolDefinition],
) -> Conversation:
    """The facts stand somewhere in one long text; the question follows it."""
    cuts = sorted(source.integer(0, length) for _ in told)
    parts, done = [], 0
    for fact, cut in zip(told, cuts, strict=True):
        parts += [recall.filler(source, cut - done, list(source.strange)), fact.told(source)]
        done = cut
    parts.append(recall.filler(source, length - done, list(source.strange)))
    text = " ".join(p for p in parts if p)
    if source.chance(0.5):
        items = [*items, UserMessage(f"{text}\n\n{exchange.user}")]
    else:
        items = [*items, UserMessage(text), AssistantMessage("Noted."), UserMessage(exchange.user)]
    return Conversation(replace(system, items=tuple(items), tools=tuple(tools)), exchange)
