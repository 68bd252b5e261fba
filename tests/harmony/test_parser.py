from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import pytest

from ossia.harmony.parser import (
    Event,
    HarmonyParser,
    MessageEnd,
    MessageStart,
    TextDelta,
    function_name,
)
from ossia.harmony.tokenizer import CHANNEL, MESSAGE, VOCAB_SIZE, Tokenizer

Spelled = Callable[[str], list[int]]


def events_of(tokenizer: Tokenizer, chunks: Iterable[Sequence[int]]) -> list[Event]:
    parser = HarmonyParser(tokenizer)
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.finish()


def summary(events: list[Event]) -> list[str]:
    """Each message as `channel>recipient:type|text|reason`, parts that are None left out."""
    lines: list[str] = []
    for event in events:
        match event:
            case MessageStart():
                line = "" if event.role == "assistant" else f"({event.role})"
                line += event.channel
                line += f">{event.recipient}" if event.recipient is not None else ""
                line += f":{event.content_type}" if event.content_type is not None else ""
                lines.append(f"{line}|")
            case TextDelta(text=text):
                lines[-1] += text
            case MessageEnd(reason=reason):
                lines[-1] += f"|{reason}"
    return lines


def test_events_tell_messages_texts_and_ends(tokenizer: Tokenizer, spelled: Spelled) -> None:
    written = (
        "<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Hello!<|return|>"
    )
    assert events_of(tokenizer, [spelled(written)]) == [
        MessageStart(0, "analysis", None, None, header="<|channel|>analysis"),
        TextDelta(0, "Hm.", 2),
        MessageEnd(0, "end"),
        MessageStart(1, "final", None, None, header="assistant<|channel|>final"),
        TextDelta(1, "Hello!", 2),
        MessageEnd(1, "return"),
    ]


WELL_FORMED = {
    "recipient in the role part": (
        " to=functions.f<|channel|>commentary json<|message|>{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "recipient in the channel part": (
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "constrain without a blank": (
        "<|channel|>commentary to=functions.f<|constrain|>json<|message|>{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "recipient without content type": (
        "<|channel|>commentary to=functions.f<|message|>{}<|call|>",
        ["commentary>functions.f|{}|call"],
    ),
    "built-in tool": (
        "<|channel|>analysis to=python code<|message|>1<|call|>",
        ["analysis>python:code|1|call"],
    ),
    "preamble": (
        "<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant to=functions.f"
        "<|channel|>commentary json<|message|>{}<|call|>",
        ["commentary|Wait.|end", "commentary>functions.f:json|{}|call"],
    ),
    "empty text": ("<|channel|>final<|message|><|return|>", ["final||return"]),
    "cut off": ("<|channel|>final<|message|>Hel", ["final|Hel|eof"]),
    "other stop token": ("<|channel|>final<|message|>a<|endoftext|>", ["final|a|return"]),
}
OFF_FORMAT = {
    "recipient in both parts": (
        " to=functions.f<|channel|>commentary to=functions.f <|constrain|>json"
        "<|message|>{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "content type without recipient": (
        "<|channel|>final json<|message|>{}<|return|>",
        ["final:json|{}|return"],
    ),
    "constrained answer": (
        "<|channel|>final <|constrain|>json<|message|>{}<|return|>",
        ["final:json|{}|return"],
    ),
    "blank after to=": (
        "<|channel|>commentary to= functions.f json<|message|>{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "no channel": ("<|message|>Hello<|return|>", ["final|Hello|return"]),
    "channel that does not exist": (
        "<|channel|>thoughts<|message|>Hello<|return|>",
        ["final|Hello|return"],
    ),
    "channel without its marker": ("final<|message|>Hello<|return|>", ["final|Hello|return"]),
    "no message marker": ("<|channel|>finalHello there<|return|>", ["final|Hello there|return"]),
    "no message marker in analysis": (
        "<|channel|>analysis We think.<|end|>",
        ["analysis|We think.|end"],
    ),
    "no message marker in a call": (
        '<|channel|>commentary to=functions.f json{"a": 1}<|call|>',
        ['commentary>functions.f:json|{"a": 1}|call'],
    ),
    "no message marker after constrain": (
        "<|channel|>commentary to=functions.f <|constrain|>json{}<|call|>",
        ["commentary>functions.f:json|{}|call"],
    ),
    "call of a header alone": (
        "<|channel|>commentary to=functions.f<|call|>",
        ["commentary>functions.f||call"],
    ),
    "header cut off": ("<|channel|>commentary to=functions.f", []),
    "header cut off inside of the channel": ("<|channel|>comment", []),
    "header cut off before a recipient": ("<|channel|>commentary to", []),
    "no header at all": ("Hello, user there<|return|>", ["final|Hello, user there|return"]),
    "text that starts like a role": (
        "assistants are fine<|return|>",
        ["final|assistants are fine|return"],
    ),
    "role doubled": (
        "assistant<|channel|>final<|message|>Hello<|return|>",
        ["final|Hello|return"],
    ),
    "role doubled after start": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistantassistant<|channel|>final"
        "<|message|>b<|return|>",
        ["analysis|a|end", "final|b|return"],
    ),
    "header doubled": (
        "<|channel|>analysis<|start|>assistant<|channel|>analysis<|message|>a<|end|>",
        ["analysis|a|end"],
    ),
    "channel doubled": ("<|channel|>analysis<|channel|>final<|message|>a", ["final|a|eof"]),
    "role and channel glued": (
        "<|message|>a<|end|><|start|>assistantfinal<|message|>b<|return|>",
        ["final|a|end", "final|b|return"],
    ),
    "channel and recipient glued": (
        "<|channel|>commentaryto=functions.f<|message|>{}<|call|>",
        ["commentary>functions.f|{}|call"],
    ),
    "text in the header": (
        "<|channel|>final Sure, here it is<|message|>: 4<|return|>",
        ["final|Sure, here it is : 4|return"],
    ),
    "text after the end": (
        "<|channel|>analysis<|message|>a<|end|>Hello!<|return|>",
        ["analysis|a|end", "final|Hello!|return"],
    ),
    "no start after the end": (
        "<|channel|>analysis<|message|>a<|end|><|channel|>final<|message|>b<|return|>",
        ["analysis|a|end", "final|b|return"],
    ),
    "role without start after the end": (
        "<|channel|>analysis<|message|>a<|end|>assistant<|channel|>final<|message|>b<|return|>",
        ["analysis|a|end", "final|b|return"],
    ),
    "text and a marker after the end": (
        "<|message|>a<|end|>Two words<|message|>more<|return|>",
        ["final|a|end", "final|Two words more|return"],
    ),
    "no end before the next header": (
        "<|channel|>analysis<|message|>a<|channel|>final<|message|>b<|return|>",
        ["analysis|a|end", "final|b|return"],
    ),
    "no end before the next start": (
        "<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|return|>",
        ["analysis|a|end", "final|b|return"],
    ),
    "message marker doubled": ("<|message|><|message|>a<|message|>b", ["final|ab|eof"]),
    "another role": (
        "<|message|>a<|end|><|start|>user<|message|>b<|end|>",
        ["final|a|end", "(user)final|b|end"],
    ),
    "a tool's answer": (
        "<|message|>a<|end|>"
        "<|start|>functions.f to=assistant<|channel|>commentary<|message|>b<|end|>",
        ["final|a|end", "(functions.f)commentary>assistant|b|end"],
    ),
    "ends only": ("<|end|><|return|><|end|>", []),
    "empty header": ("<|start|><|channel|><|message|>a", ["final|a|eof"]),
}
CASES = WELL_FORMED | OFF_FORMAT


@pytest.mark.parametrize("name", CASES)
def test_messages_are_read_as_meant(tokenizer: Tokenizer, spelled: Spelled, name: str) -> None:
    written, expected = CASES[name]
    assert summary(events_of(tokenizer, [spelled(written)])) == expected


@pytest.mark.parametrize("name", CASES)
def test_one_token_at_a_time_gives_the_same_messages(
    tokenizer: Tokenizer, spelled: Spelled, name: str
) -> None:
    written, expected = CASES[name]
    assert summary(events_of(tokenizer, [[token] for token in spelled(written)])) == expected


def test_a_character_split_over_tokens_comes_whole(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("🦕")
    assert len(ids) > 1
    parser = HarmonyParser(tokenizer)
    parser.feed([MESSAGE])
    held_back = [parser.feed([token]) for token in ids]
    assert held_back[:-1] == [[]] * (len(ids) - 1)
    assert held_back[-1] == [TextDelta(0, "🦕", len(ids))]


def test_half_a_character_at_the_end_is_replaced(tokenizer: Tokenizer) -> None:
    half = tokenizer.encode("🦕")[:1]
    assert summary(events_of(tokenizer, [[MESSAGE, *half]])) == ["final|\ufffd|eof"]


def test_special_tokens_never_show_as_text(tokenizer: Tokenizer, spelled: Spelled) -> None:
    odd = [199998, 200000, 200013, 201087, VOCAB_SIZE, VOCAB_SIZE + 7, -1, 2**40]
    ids = [CHANNEL, *spelled("final"), *odd, MESSAGE, *odd, *spelled("Hi"), *odd]
    assert summary(events_of(tokenizer, [ids])) == ["final|Hi|eof"]


def test_spelled_out_markers_are_text(tokenizer: Tokenizer) -> None:
    ids = [MESSAGE, *tokenizer.encode("a <|end|> b <|call|>")]
    assert summary(events_of(tokenizer, [ids])) == ["final|a <|end|> b <|call|>|eof"]


def test_a_header_that_never_ends_is_shown_while_it_streams(
    tokenizer: Tokenizer, spelled: Spelled
) -> None:
    parser = HarmonyParser(tokenizer)
    text = "This model has forgotten how to begin a message and simply talks on and on"
    shown = [event for token in spelled(text) for event in parser.feed([token])]
    assert "".join(e.text for e in shown if isinstance(e, TextDelta)) == text
    assert sum(e.tokens for e in shown if isinstance(e, TextDelta)) == len(spelled(text))


def test_a_header_without_blanks_is_shown_before_it_is_endless(tokenizer: Tokenizer) -> None:
    parser = HarmonyParser(tokenizer)
    shown = [event for token in tokenizer.encode("🦕" * 200) for event in parser.feed([token])]
    text = "".join(e.text for e in shown if isinstance(e, TextDelta))
    assert text == "🦕" * 200


def test_only_text_on_the_analysis_channel_counts_as_reasoning(
    tokenizer: Tokenizer, spelled: Spelled
) -> None:
    parser = HarmonyParser(tokenizer)
    thought = "Think about it."
    parser.feed(spelled(f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"))
    parser.feed(spelled("<|channel|>final<|message|>A long answer, not thought.<|return|>"))
    assert parser.reasoning_tokens == len(tokenizer.encode(thought))


def test_finishing_twice_says_nothing_more(tokenizer: Tokenizer, spelled: Spelled) -> None:
    parser = HarmonyParser(tokenizer)
    parser.feed(spelled("<|message|>a"))
    assert parser.finish() == [MessageEnd(0, "eof")]
    assert parser.finish() == []


@pytest.mark.parametrize(
    ("recipient", "name"),
    [
        ("functions.get_weather", "get_weather"),
        ("get_weather", "get_weather"),
        ("functions.functions.get_weather", "get_weather"),
        ("functions.shelljson", "shell"),
        ("functions.shellcommentary", "shell"),
        ("functions.shell<|constrain|>json", "shell"),
        ("functions.parsejson", "parsejson"),
        ("functions.parse", "parse"),
        ("functions.parsejsonjson", "parsejson"),
        ("functions.dotted.name", "dotted.name"),
        ("functions.shell_code", None),
        ("functions.shells", None),
        ("functions.", None),
        ("functions", None),
        ("python", None),
        ("", None),
        (None, None),
    ],
)
def test_recipients_are_matched_to_declared_functions(
    recipient: str | None, name: str | None
) -> None:
    declared = ["get_weather", "shell", "parse", "parsejson", "dotted.name"]
    assert function_name(recipient, declared) == name


def test_a_name_declared_with_its_namespace_is_found() -> None:
    assert function_name("functions.f", ["functions.f"]) == "functions.f"


def test_reading_takes_microseconds_per_token(tokenizer: Tokenizer, spelled: Spelled) -> None:
    ids = spelled("<|channel|>final<|message|>" + "The quick brown fox, 42 times! " * 1000)
    parser = HarmonyParser(tokenizer)
    start = time.process_time()
    for token in ids:
        parser.feed([token])
    assert (time.process_time() - start) / len(ids) < 100e-6  # measured: 3e-6
