from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.answer.assembler import (
    CallArguments,
    CallStart,
    Delta,
    MessageClosed,
    MessageOpened,
    ReasoningText,
    TextAssembler,
    TurnAssembler,
    VisibleText,
)
from ossia.engine.messages import Chunk, FinishReason, TokenLogprobs
from ossia.errors import EngineUnavailable, InternalError
from ossia.harmony.tokenizer import CALL, CHANNEL, END, MESSAGE, RETURN, START, Tokenizer

TOKENIZER = Tokenizer()


def tokens(text: str) -> list[int]:
    """Token ids of a text in which markers such as <|end|> are special tokens."""
    markers = {"channel": CHANNEL, "message": MESSAGE, "end": END, "start": START}
    markers |= {"return": RETURN, "call": CALL}
    ids: list[int] = []
    for part in text.replace("|>", "<|").split("<|"):
        ids += [markers[part]] if part in markers else TOKENIZER.encode(part)
    return ids


def chunks(
    ids: Sequence[int], cuts: Sequence[int] = (), reason: FinishReason = "stop"
) -> list[Chunk]:
    ends = [*sorted({cut % len(ids) for cut in cuts} - {0}), len(ids)]
    parts = [list(ids[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    logprobs = [[TokenLogprobs(-1.0, []) for _ in part] for part in parts]
    return [
        Chunk("r", part, logprobs[i], reason if i == len(parts) - 1 else None)
        for i, part in enumerate(parts)
    ]


def fold(deltas: Sequence[Delta]) -> tuple[str, str, list[tuple[str, str]], list[int]]:
    """Reasoning, visible text, calls with their arguments, ids of the visible tokens."""
    reasoning = "".join(d.text for d in deltas if isinstance(d, ReasoningText))
    visible = [d for d in deltas if isinstance(d, VisibleText)]
    calls = [(d.name, d.index) for d in deltas if isinstance(d, CallStart)]
    arguments = [d for d in deltas if isinstance(d, CallArguments)]
    written = [(name, "".join(a.text for a in arguments if a.index == i)) for name, i in calls]
    shown = [token.token_id for delta in visible for token in delta.tokens]
    return reasoning, "".join(d.text for d in visible), written, shown


def run(
    text: str, *, stop: Sequence[str] = (), reason: FinishReason = "stop", cuts: Sequence[int] = ()
) -> tuple[TurnAssembler, tuple[str, str, list[tuple[str, str]], list[int]]]:
    assembler = TurnAssembler(TOKENIZER, ["weather"], stop)
    deltas = [d for chunk in chunks(tokens(text), cuts, reason) for d in assembler.feed(chunk)]
    return assembler, fold(deltas)


ANSWER = (
    "<|channel|>analysis<|message|>Hm.<|end|>"
    "<|start|>assistant<|channel|>final<|message|>A \U0001f9a9!<|return|>"
)
CALLING = (
    "<|channel|>analysis<|message|>Look.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
    '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"a": 1}<|call|>'
)


def test_a_turn_has_reasoning_and_answer() -> None:
    assembler, (reasoning, visible, calls, shown) = run(ANSWER)
    assert (reasoning, visible, calls) == ("Hm.", "A \U0001f9a9!", [])
    assert TOKENIZER.decode(shown) == visible
    assert assembler.finish_reason == "stop"
    assert assembler.completion_tokens == len(tokens(ANSWER))
    assert assembler.reasoning_tokens == len(tokens("Hm."))


def test_a_turn_that_ends_in_a_call_keeps_its_preamble() -> None:
    assembler, (reasoning, visible, calls, _) = run(CALLING)
    assert (reasoning, visible, calls) == ("Look.", "One moment.", [("weather", '{"a": 1}')])
    assert assembler.finish_reason == "tool_calls"


def test_a_call_without_arguments_has_an_empty_object() -> None:
    text = "<|channel|>commentary to=functions.weather<|message|><|call|>"
    assert run(text)[1][2] == [("weather", "{}")]
    assert run(text.removesuffix("<|call|>"), reason="length")[1][2] == [("weather", "")]


PARALLEL = (
    "<|channel|>analysis<|message|>Both.<|end|>"
    '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"a": 1}<|end|>'
    "<|start|>assistant<|channel|>commentary to=functions.weather<|message|><|end|>"
    '<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>{"a": 2}<|call|>'
)


def test_calls_in_one_turn_come_in_order_with_ids_of_their_own() -> None:
    assembler, (_, _, calls, _) = run(PARALLEL)
    assert calls == [("weather", '{"a": 1}'), ("weather", "{}"), ("weather", '{"a": 2}')]
    assert assembler.finish_reason == "tool_calls"
    deltas = TurnAssembler(TOKENIZER, ["weather"]).feed(chunks(tokens(PARALLEL))[0])
    starts = [delta for delta in deltas if isinstance(delta, CallStart)]
    assert [start.index for start in starts] == [0, 1, 2]
    assert len({start.call_id for start in starts}) == 3


def test_arguments_come_as_they_are_written() -> None:
    assembler = TurnAssembler(TOKENIZER, ["weather"])
    arguments = '{"city": "Paris"}'
    header = tokens("<|channel|>commentary to=functions.weather json<|message|>")
    (start,) = assembler.feed(Chunk("r", header))
    assert isinstance(start, CallStart)
    for token in TOKENIZER.encode(arguments):
        (delta,) = assembler.feed(Chunk("r", [token]))
        assert delta == CallArguments(0, TOKENIZER.decode([token]))


@pytest.mark.parametrize(
    ("text", "reason", "whole"),
    [
        (ANSWER, "stop", True),
        (CALLING, "stop", True),
        (PARALLEL, "stop", True),
        (ANSWER, "length", False),
        (ANSWER.removesuffix("<|return|>"), "stop", False),  # a stop token of the request
        (CALLING.removesuffix("<|call|>"), "stop", False),
        ("<|channel|>analysis<|message|>Hm.<|return|>", "stop", False),
        ("<|channel|>commentary to=functions.unknown<|message|>x<|call|>", "stop", False),
    ],
)
def test_a_turn_is_whole_if_the_model_ended_it_as_turns_end(
    text: str, reason: FinishReason, whole: bool
) -> None:
    assembler, _ = run(text, reason=reason)
    assert assembler.is_whole is whole
    assert assembler.token_ids == tokens(text)
    assert not run(ANSWER, stop=["A"])[0].is_whole


def test_tokens_of_the_reasoning_are_told_apart() -> None:
    assembler = TurnAssembler(TOKENIZER, [])
    deltas = [d for chunk in chunks(tokens(ANSWER)) for d in assembler.feed(chunk)]
    thought = [t.token_id for d in deltas if isinstance(d, ReasoningText) for t in d.tokens]
    assert TOKENIZER.decode(thought) == "Hm."


def test_reasoning_that_is_addressed_to_nobody_in_particular_stays_reasoning() -> None:
    _, (reasoning, visible, _, _) = run("<|channel|>analysis to=assistant<|message|>x<|end|>")
    assert (reasoning, visible) == ("x", "")


def test_running_out_of_tokens_goes_before_a_call() -> None:
    assembler, (_, _, calls, _) = run(CALLING.removesuffix("}<|call|>"), reason="length")
    assert calls == [("weather", '{"a": 1')]
    assert assembler.finish_reason == "length"


def test_running_out_of_tokens_in_the_reasoning_keeps_it() -> None:
    assembler, (reasoning, visible, _, _) = run("<|channel|>analysis<|message|>We", reason="length")
    assert (reasoning, visible, assembler.finish_reason) == ("We", "", "length")


@pytest.mark.parametrize("channel", ["commentary", "analysis"])
def test_a_call_of_what_was_not_declared_is_shown(channel: str) -> None:
    text = f"<|channel|>{channel} to=functions.unknown<|message|>x<|call|>"
    assembler, (_, visible, calls, _) = run(text)
    assert (visible, calls, assembler.finish_reason) == ("x", [], "stop")


def test_messages_of_one_kind_are_joined_by_an_empty_line() -> None:
    text = "<|channel|>commentary<|message|>One.<|end|><|start|>assistant" + ANSWER
    _, (_, visible, _, _) = run(text, stop=["\n\n"])
    assert visible == "One.\n\nA \U0001f9a9!"


def test_a_stop_string_ends_visible_text_and_not_the_reasoning() -> None:
    text = "<|channel|>analysis<|message|>a stop b<|end|><|start|>assistant"
    text += "<|channel|>final<|message|>c stop d<|return|>"
    assembler, (reasoning, visible, _, shown) = run(text, stop=["stop"])
    assert (reasoning, visible, assembler.finish_reason) == ("a stop b", "c ", "stop")
    # The token " stop" begins with a blank that is shown.
    assert TOKENIZER.decode(shown) == "c stop"
    assert assembler.completion_tokens < len(tokens(text))
    assert assembler.feed(Chunk("r", tokens("more"))) == []


@given(
    st.sampled_from([ANSWER, CALLING, "no header at all", CALLING + ANSWER, "<|start|><|end|>x"]),
    st.sampled_from([(), ("!",), ("moment", "e m"), ("\U0001f9a9",), ("ne mo",)]),
    st.lists(st.integers(1, 1000)),
)
def test_every_split_of_the_tokens_gives_the_same_turn(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    whole, split = run(text, stop=stop), run(text, stop=stop, cuts=cuts)
    assert whole[1] == split[1]
    assert whole[0].finish_reason == split[0].finish_reason
    assert whole[0].completion_tokens == split[0].completion_tokens
    assert whole[0].reasoning_tokens == split[0].reasoning_tokens


@given(
    st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=40), st.lists(st.integers(1, 40))
)
def test_any_tokens_are_read_and_visible_tokens_are_claimed_once(
    ids: list[int], cuts: list[int]
) -> None:
    assembler = TurnAssembler(TOKENIZER, ["weather"], ["a"])
    deltas = [d for c in chunks(ids or [RETURN], cuts, "length") for d in assembler.feed(c)]
    rest = iter(ids)
    assert all(token in rest for token in fold(deltas)[3]), "claimed twice or out of order"
    assert assembler.finish_reason in ("stop", "length", "tool_calls")


def messages(deltas: Sequence[Delta]) -> list[tuple[str, str, bool]]:
    """Kind or name, text, and whether it is whole, of each message; they must not overlap."""
    found: list[tuple[str, str, bool]] = []
    kind, text = None, ""
    for delta in deltas:
        match delta:
            case MessageOpened() | CallStart():
                assert kind is None
                kind, text = (delta.kind if isinstance(delta, MessageOpened) else delta.name), ""
            case MessageClosed(whole):
                assert kind is not None
                found.append((kind, text, whole))
                kind = None
            case _:
                assert kind is not None
                text += delta.text
    assert kind is None
    return found


def test_messages_stand_apart_where_that_is_asked_for() -> None:
    text = f"{CALLING.removesuffix('<|call|>')}<|end|><|start|>assistant{CALLING}"
    assembler = TurnAssembler(TOKENIZER, ["weather"], by_message=True)
    [chunk] = chunks(tokens(text))
    turn = [
        ("reasoning", "Look.", True),
        ("preamble", "One moment.", True),
        ("weather", '{"a": 1}', True),
    ]
    assert messages(assembler.feed(chunk)) == turn * 2


def test_a_message_that_was_cut_off_is_not_whole() -> None:
    assembler = TurnAssembler(TOKENIZER, [], by_message=True)
    [chunk] = chunks(tokens("<|channel|>final<|message|>Hel"), reason="length")
    assert messages(assembler.feed(chunk)) == [("answer", "Hel", False)]


@given(
    ids=st.lists(
        st.sampled_from([*range(200_000, 200_014), *tokens(" weather assistant x{} y")]), min_size=1
    ),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    stop=st.sampled_from([(), ("x{",)]),
)
def test_messages_never_overlap_and_all_are_closed(
    ids: list[int], cuts: list[int], stop: tuple[str, ...]
) -> None:
    assembler = TurnAssembler(TOKENIZER, ["weather"], stop, by_message=True)
    messages([d for chunk in chunks(ids, cuts) for d in assembler.feed(chunk)])


def test_plain_text_hides_special_tokens_unless_asked() -> None:
    hiding, showing = TextAssembler(TOKENIZER), TextAssembler(TOKENIZER, show_special=True)
    chunk = chunks(tokens("one<|end|>two"))[0]
    assert fold(hiding.feed(chunk))[1] == "onetwo"
    assert fold(showing.feed(chunk))[1] == "one<|end|>two"


@given(
    st.lists(st.integers(1, 1000)), st.sampled_from([(), ("9",), ("be", "bird"), ("e \U0001f9a9",)])
)
def test_plain_text_is_the_same_for_every_split(cuts: list[int], stop: tuple[str, ...]) -> None:
    ids = tokens("The \U0001f9a9 bird 1999, the \U0001f9a9 bee")
    results = []
    for split in ((), cuts):
        assembler = TextAssembler(TOKENIZER, stop)
        deltas = [d for chunk in chunks(ids, split) for d in assembler.feed(chunk)]
        results.append((fold(deltas), assembler.finish_reason, assembler.completion_tokens))
    assert results[0] == results[1]


def test_a_fault_of_the_engine_is_raised() -> None:
    with pytest.raises(InternalError, match="broken"):
        TurnAssembler(TOKENIZER, []).feed(Chunk("r", [], None, "error", error="It is broken."))
    with pytest.raises(EngineUnavailable):
        TextAssembler(TOKENIZER).feed(Chunk("r", [], None, "abort"))
