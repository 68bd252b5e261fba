"""What holds for any tokens at all."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st
from openai_harmony import HarmonyError, Role, StreamableParser

from ossia.harmony.parser import Event, HarmonyParser, MessageEnd, MessageStart, TextDelta
from ossia.harmony.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    FIRST_SPECIAL,
    MESSAGE,
    RETURN,
    START,
    VOCAB_SIZE,
    Tokenizer,
)

Spelled = Callable[[str], list[int]]

# Spelled with markers; what headers are made of, and what is not.
FRAGMENTS = (
    *("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>"),
    *("<|call|>", "<|endoftext|>", "assistant", "assistantassistant", "user", "functions.f"),
    *("analysis", "commentary", "final", " to=functions.f", "to=", " json", "json", " code", " "),
    *("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", "<|start|>assistant"),
    *("<|channel|>commentary to=functions.f <|constrain|>json<|message|>", '{"a": 1}', "\n"),
    *("Hello", " world", "🦕", "漢字", "é", ". "),
)
any_token = st.one_of(
    st.integers(0, FIRST_SPECIAL - 1),
    st.sampled_from([START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL, ENDOFTEXT]),
    st.integers(FIRST_SPECIAL, VOCAB_SIZE - 1),
    st.integers(-(2**65), 2**65),
)
fragments = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)


def merged(events: list[Event]) -> list[Event]:
    """Events with adjacent deltas of text joined."""
    out: list[Event] = []
    for event in events:
        last = out[-1] if out else None
        if isinstance(event, TextDelta) and isinstance(last, TextDelta):
            out[-1] = TextDelta(last.index, last.text + event.text, last.tokens + event.tokens)
        else:
            out.append(event)
    return out


@st.composite
def streams(draw: st.DrawFn) -> tuple[str, list[int], list[int]]:
    """A spelled stream, ids mixed into it, and cuts."""
    return (
        draw(fragments),
        draw(st.lists(any_token, max_size=6)),
        draw(st.lists(st.integers(0, 60), max_size=6)),
    )


def interleaved(ids: list[int], odd: list[int]) -> list[int]:
    step = len(ids) // (len(odd) + 1) + 1
    out = list(odd) if not ids else []
    for index in range(0, len(ids), step):
        out += ids[index : index + step] + odd[index // step : index // step + 1]
    return out


@given(stream=streams())
def test_events_do_not_depend_on_chunks(
    tokenizer: Tokenizer, spelled: Spelled, stream: tuple[str, list[int], list[int]]
) -> None:
    text, odd, cuts = stream
    ids = interleaved(spelled(text), odd)
    whole, single, chunked = (HarmonyParser(tokenizer) for _ in range(3))
    expected = merged(whole.feed(ids) + whole.finish())
    by_one = [event for token in ids for event in single.feed([token])]
    assert merged(by_one + single.finish()) == expected
    edges = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    by_chunk = [e for start, end in pairwise(edges) for e in chunked.feed(ids[start:end])]
    assert merged(by_chunk + chunked.finish()) == expected
    assert whole.reasoning_tokens == single.reasoning_tokens == chunked.reasoning_tokens


@given(stream=streams())
def test_messages_come_one_after_the_other_and_all_end(
    tokenizer: Tokenizer, spelled: Spelled, stream: tuple[str, list[int], list[int]]
) -> None:
    text, odd, _ = stream
    parser = HarmonyParser(tokenizer)
    ids = interleaved(spelled(text), odd)
    events = [event for token in ids for event in parser.feed([token])] + parser.finish()
    open_index, count, tokens = None, 0, 0
    for event in events:
        if isinstance(event, MessageStart):
            assert open_index is None
            assert event.index == count
            open_index, count = event.index, count + 1
        else:
            assert event.index == open_index
        if isinstance(event, TextDelta):
            assert event.text
            tokens += event.tokens
        if isinstance(event, MessageEnd):
            open_index = None
    assert open_index is None
    assert tokens <= len(ids)


@given(ids=st.lists(any_token, max_size=200))
def test_no_tokens_raise(tokenizer: Tokenizer, ids: list[int]) -> None:
    parser = HarmonyParser(tokenizer)
    for start in range(0, len(ids), 7):
        parser.feed(ids[start : start + 7])
    parser.finish()


@given(parts=st.lists(st.sampled_from((*FRAGMENTS, " zebra", " zebra ")), max_size=20))
def test_every_word_ends_up_somewhere(
    tokenizer: Tokenizer, spelled: Spelled, parts: list[str]
) -> None:
    """In the text of a message or, where `<|message|>` ended a header, in the header as written."""
    ids = spelled("".join(parts))
    parser = HarmonyParser(tokenizer)
    events = merged(parser.feed(ids) + parser.finish())
    shown = [event.text for event in events if isinstance(event, TextDelta)]
    headers = [event.header for event in events if isinstance(event, MessageStart)]
    assert "".join(shown + headers).count("zebra") >= tokenizer.decode(ids).count("zebra")


@given(text=st.text(min_size=1), channel=st.sampled_from(["analysis", "commentary", "final"]))
def test_text_comes_out_as_it_went_in(tokenizer: Tokenizer, text: str, channel: str) -> None:
    parser = HarmonyParser(tokenizer)
    ids = [CHANNEL, *tokenizer.encode(channel), MESSAGE, *tokenizer.encode(text), END]
    (delta,) = [e for e in parser.feed(ids) if isinstance(e, TextDelta)]
    assert delta.text == text
    assert delta.tokens == len(tokenizer.encode(text))


# --- openai_harmony's strict parser -----------------------------------------------------------

Said = tuple[str, str, str | None, str | None, str]


def strictly_read(tokenizer: Tokenizer, ids: list[int]) -> list[Said] | None:
    """Role, channel, recipient, content type and text of each message, as the strict parser reads
    them; None if it refuses the stream."""
    parser = StreamableParser(tokenizer.harmony, Role.ASSISTANT, strict=True)
    try:
        for token in ids:
            parser.process(token)
        parser.process_eos()
    except HarmonyError:
        return None
    return [
        (
            message.author.name or message.author.role.value,
            message.channel or "final",
            message.recipient,
            message.content_type and message.content_type.removeprefix("<|constrain|>"),
            message.content[0].text,  # type: ignore[attr-defined]
        )
        for message in parser.messages
    ]


def read(tokenizer: Tokenizer, ids: list[int]) -> list[Said]:
    parser = HarmonyParser(tokenizer)
    said: list[Said] = []
    for event in merged(parser.feed(ids) + parser.finish()):
        if isinstance(event, MessageStart):
            said.append((event.role, event.channel, event.recipient, event.content_type, ""))
        elif isinstance(event, TextDelta):
            said[-1] = (*said[-1][:4], event.text)
    return said


# Headers are built of words that mean one thing. Left out is what the strict parser accepts and
# misreads: a content type without a recipient (which it takes for one), markers inside of text or
# doubled in a header (which it takes for words), channels that do not exist, a role doubled.
recipients = st.sampled_from(["functions.f", "functions.get_weather", "browser.search", "python"])
blank = st.sampled_from([" ", "  ", "\n"])
types = st.sampled_from(["json", "code", "x-yz"])
channels = st.sampled_from(["analysis", "commentary", "final"])
texts = st.lists(
    st.sampled_from(["Hello", " world", '{"a": 1}', "🦕", "\n", "<|", " to=", "assistant", ""])
    | st.text(max_size=5).filter(lambda text: "<|" not in text),
    max_size=5,
).map("".join)


@st.composite
def headers(draw: st.DrawFn) -> str:
    """What may follow the role, strictly or nearly so."""
    to = draw(st.none() | st.tuples(blank, st.sampled_from(["to=", ""]), recipients).map("".join))
    kind = draw(
        st.none()
        | st.tuples(blank, types).map("".join)
        | st.tuples(st.sampled_from([" ", ""]), st.just("<|constrain|>"), types).map("".join)
    )
    channel = draw(st.none() | channels)
    extra = draw(st.sampled_from([""] * 5 + [" word", " two words"]))
    if to is None:
        kind = None
    parts = [to or "", f"<|channel|>{channel}" if channel else "", kind or "", extra]
    if draw(st.booleans()):
        parts[0], parts[1] = parts[1], parts[0]
    return "".join(parts)


@st.composite
def conversations(draw: st.DrawFn) -> str:
    messages = draw(st.lists(st.tuples(headers(), texts), min_size=1, max_size=4))
    out = ""
    for number, (header, text) in enumerate(messages):
        if number:
            role = draw(st.sampled_from(["assistant"] * 4 + ["user", "functions.f", "unheard-of"]))
            out += f"<|start|>{role}"
        end = draw(st.sampled_from(["<|end|>", "<|call|>", "<|return|>"]))
        out += f"{header}<|message|>{text}{end}"
    return out.removesuffix("<|end|>") if draw(st.booleans()) else out


@given(written=conversations())
def test_what_the_strict_parser_accepts_is_read_the_same(
    tokenizer: Tokenizer, spelled: Spelled, written: str
) -> None:
    ids = spelled(written)
    strictly = strictly_read(tokenizer, ids)
    assume(strictly is not None)
    assert read(tokenizer, ids) == strictly


@given(text=st.lists(st.integers(0, FIRST_SPECIAL - 1), max_size=12), channel=channels)
def test_random_text_tokens_are_read_as_strictly(
    tokenizer: Tokenizer, text: list[int], channel: str
) -> None:
    """Bytes that are no UTF-8 included; the strict parser replaces them alike."""
    ids = [CHANNEL, *tokenizer.encode(channel), MESSAGE, *text, END]
    strictly = strictly_read(tokenizer, ids)
    assert strictly is not None
    assert read(tokenizer, ids) == strictly
