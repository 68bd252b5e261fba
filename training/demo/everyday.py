"""Functions that clients often declare: weather, reminders, orders and the like."""

from __future__ import annotations

from dataclasses import dataclass

from training.demo import values, words
from training.demo.declared import Function, camel
from training.demo.results import any_result
from training.demo.values import Argument, Kind, Parameter
from training.demo.words import Source


@dataclass(frozen=True)
class Everyday:
    """A common function: topic words for its name, its parameters and ways to ask."""

    verbs: str
    topics: str
    description: str
    parameters: tuple[tuple[str, Kind, bool], ...]  # slot in the requests, kind, required
    requests: str  # one a line; {slot} is the value
    options: str = ""  # one a line, "slot: phrase", for optional parameters


_C, _P, _T, _X = values.CITY, values.PERSON, values.TITLE, values.TEXT
UNIT = Kind(
    "string",
    ("unit", "units", "format", "scale"),
    lambda s: "celsius",
    closed=("celsius", "fahrenheit"),
    listed=True,
)

EVERYDAY = (
    Everyday(
        "get fetch read check show find query",
        "weather current_weather forecast weather_forecast temperature weather_data",
        "Get the current weather for a city.",
        (("city", _C, True), ("unit", UNIT, False)),
        "What's the weather in {city}?\nWhat is the weather like in {city}?\nHow is the weather in "
        "{city} today?\nweather in {city}\nIs it raining in {city}?\nIs it warm in {city} now?\n"
        "Tell me the weather for {city}\nHow cold is it in {city}?\nWhat is the temperature in "
        "{city}?\nDo I need a coat in {city} today?\nIs it sunny in {city}?",
        "unit: in {v}\nunit: (in {v})\nunit: , use {v}",
    ),
    Everyday(
        "send write post mail",
        "email message mail note text_message",
        "Send a message to a person.",
        (("to", _P, True), ("text", _X, True)),
        'Send {to} a message saying "{text}"\nTell {to} "{text}"\nEmail {to}: {text}\n'
        'Write to {to} that "{text}"\nMessage {to}: "{text}"\nSend "{text}" to {to}',
    ),
    Everyday(
        "set create add make schedule",
        "reminder alarm timer task todo",
        "Create a reminder.",
        (("title", _T, True), ("time", values.TIME, False), ("date", values.DATE, False)),
        'Remind me about {title}\nSet a reminder for {title}\nRemind me of "{title}"\n'
        'Create a reminder called "{title}"\nDon\'t let me forget {title}\nI must remember {title}',
        "time: at {v}\ndate: on {v}",
    ),
    Everyday(
        "convert exchange change compute",
        "currency money amount price",
        "Convert an amount of money from one currency to another.",
        (
            ("amount", values.COUNT, True),
            ("a", values.CURRENCY, True),
            ("b", values.CURRENCY, True),
        ),
        "Convert {amount} {a} to {b}\nHow much is {amount} {a} in {b}?\nWhat are {amount} {a} in "
        "{b}?\nexchange {amount} {a} into {b}\nI have {amount} {a}, how many {b} is that?",
    ),
    Everyday(
        "translate convert",
        "text sentence words message phrase",
        "Translate a text into another language.",
        (("text", _X, True), ("language", values.LANGUAGE, True)),
        'Translate "{text}" into {language}\nHow do you say "{text}" in {language}?\n'
        'What is "{text}" in {language}?\ntranslate {text} to {language}',
    ),
    Everyday(
        "search find look query browse",
        "web internet documents books articles news pages",
        "Search for something.",
        (("query", _T, True), ("limit", values.COUNT, False)),
        'Search for {query}\nFind something about {query}\nLook up "{query}"\nsearch "{query}"\n'
        "Can you look up {query} for me?\nWhat can you find about {query}?",
        "limit: , at most {v} results\nlimit: and show {v} results\nlimit: (limit {v})",
    ),
    Everyday(
        "play start queue stream",
        "music song track playlist radio",
        "Play music.",
        (("song", _T, True), ("volume", values.LEVEL, False)),
        'Play {song}\nPlay the song "{song}"\nI want to hear {song}\nPut on "{song}"\nplay '
        "{song} please",
        "volume: at volume {v}\nvolume: with volume {v}",
    ),
    Everyday(
        "book reserve order get",
        "table restaurant dinner seats",
        "Book a table in a restaurant.",
        (("city", _C, True), ("people", values.PEOPLE, True), ("time", values.TIME, False)),
        "Book a table in {city} for {people} people\nReserve a table for {people} in {city}\n"
        "I need a table for {people} people in {city}\nDinner for {people} in {city}, please",
        "time: at {v}",
    ),
    Everyday(
        "book find search get reserve",
        "flight flights ticket trip train",
        "Find a connection between two cities.",
        (("a", _C, True), ("b", _C, True), ("date", values.DATE, False)),
        "Find a flight from {a} to {b}\nI want to fly from {a} to {b}\nBook a trip from {a} to "
        "{b}\n"
        "flights {a} to {b}\nHow do I get from {a} to {b}?",
        "date: on {v}",
    ),
    Everyday(
        "get find check track lookup show",
        "order order_status delivery package shipment parcel",
        "Look up the status of an order.",
        (("order", values.CODE, True),),
        "Where is my order {order}?\nWhat is the status of order {order}?\nTrack package {order}\n"
        "Has {order} been delivered?\nCheck order {order}\nWhen does {order} arrive?",
    ),
    Everyday(
        "set change adjust update",
        "temperature thermostat heating brightness volume light",
        "Set the level of a device.",
        (("level", values.LEVEL, True), ("room", values.TITLE, False)),
        "Set it to {level}\nTurn it to {level}\nMake it {level}\nI want it at {level}, please",
        "room: in the {v}",
    ),
    Everyday(
        "turn switch toggle set",
        "light lights lamp on_light device",
        "Turn the light on or off.",
        (("on", values.FLAG, True),),
        "Turn the light {on}\nSwitch the lamp {on}\nlight {on}\nPlease turn {on} the lights",
    ),
    Everyday(
        "get find fetch lookup read",
        "stock_price stock share_price price quote",
        "Get the price of a product or share.",
        (("name", values.TITLE, True),),
        "What is the price of {name}?\nHow much does {name} cost?\nprice of {name}\n"
        "How expensive is {name}?\nGet me the price of {name}",
    ),
    Everyday(
        "create add new make schedule",
        "event meeting appointment calendar_entry",
        "Add an event to the calendar.",
        (("title", _T, True), ("date", values.DATE, True), ("time", values.TIME, False)),
        'Add {title} to my calendar on {date}\nSchedule "{title}" for {date}\n'
        'Create an event "{title}" on {date}\nPut {title} in my calendar for {date}',
        "time: at {v}",
    ),
    Everyday(
        "get find fetch lookup show read",
        "user customer contact person profile account",
        "Look up a person.",
        (("name", _P, True),),
        "Who is {name}?\nLook up {name}\nFind the contact {name}\nShow me the profile of {name}\n"
        "What do we know about {name}?\nGet the account of {name}",
    ),
    Everyday(
        "delete remove drop erase clear",
        "file document entry record item",
        "Delete a file.",
        (("file", values.FILE, True),),
        "Delete {file}\nRemove the file {file}\nplease erase {file}\nI don't need {file} any more",
    ),
    Everyday(
        "read open load get show",
        "file document page text",
        "Read a file.",
        (("file", values.FILE, True), ("lines", values.COUNT, False)),
        "Open {file}\nWhat is in {file}?\nRead the file {file}\nShow me {file}\nshow {file}",
        "lines: , {v} lines\nlines: but only {v} lines",
    ),
    Everyday(
        "get find measure compute calculate",
        "distance route travel_time directions",
        "Distance between two cities.",
        (("a", _C, True), ("b", _C, True), ("unit", values.ENUM, False)),
        "How far is it from {a} to {b}?\nDistance from {a} to {b}\nWhat is the distance between "
        "{a} "
        "and {b}?\nHow many km are there between {a} and {b}?",
        "unit: in {v}",
    ),
    Everyday(
        "add buy order put",
        "item product to_cart shopping_item",
        "Add a product to the shopping list.",
        (("product", values.FOOD, True), ("quantity", values.COUNT, False)),
        "Add {product} to my list\nPut {product} on the shopping list\nI need to buy {product}\n"
        "We are out of {product}\nBuy {product}",
        "quantity: , quantity {v}\nquantity: , {v} of them",
    ),
    Everyday(
        "roll throw get generate pick",
        "dice random_number number random",
        "Random number.",
        (("sides", values.COUNT, False),),
        "Roll a die\nGive me a random number\nThrow the dice\nPick a random number",
        "sides: with {v} sides\nsides: up to {v}",
    ),
)


def everyday(source: Source) -> Function:
    """One of the common functions under a name and parameter names of this side of the split."""
    topic = source.choice(EVERYDAY)
    verbs, topics = topic.verbs.split(), topic.topics.split()

    def make_name() -> str:
        name = f"{source.choice(verbs)}_{source.choice(topics)}"
        draw = source.random.random()
        if draw < 0.1:
            return camel(name)
        if draw < 0.2 and not source.held_out:
            return source.choice(topics)
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

    options = [line.split(": ", 1) for line in topic.options.split("\n") if line]
    requests = topic.requests.split("\n")

    def ask(source: Source) -> tuple[str, list[Argument]]:
        arguments, said = [], {}
        request = source.choice(requests)
        for slot, parameter in slots.items():
            phrases = [p for s, p in options if s == slot]
            if not parameter.required and not (phrases and source.chance(0.5)):
                continue
            value = values.draw_value(source, parameter.kind, parameter.enum)
            while slot == "b" and value == arguments[-1].value:
                value = values.draw_value(source, parameter.kind, parameter.enum)
            arguments.append(Argument(parameter, value))
            text = values.spoken(value)
            if slot == "on":
                text = "on" if value else "off"
            if parameter.required:
                said[slot] = text
            else:
                ending = request[-1] if request[-1] in "?." else ""
                body = request[: len(request) - len(ending)]
                phrase = source.choice(phrases).replace("{v}", text)
                gap = "" if phrase.startswith(",") else " "
                request = f"{body}{gap}{phrase}{ending}"
        for slot, text in said.items():
            request = request.replace("{" + slot + "}", text)
        return request, arguments

    name = source.draw("function", make_name)
    description = topic.description if source.chance(0.85) else ""
    if description and source.chance(0.3):
        description = source.choice(
            [
                "This function can {d}",
                "{D} Returns JSON.",
                "Use it to {d}",
                "{D} Returns the result as text.",
            ]
        ).format(D=description, d=description[0].lower() + description[1:])
    return Function(name, description, tuple(slots.values()), ask, any_result, topic.description)
