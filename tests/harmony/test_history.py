from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.harmony.history import ends_in_final, replay
from ossia.harmony.parser import HarmonyParser, MessageEnd, MessageStart, TextDelta
from ossia.harmony.tokenizer import START, Tokenizer

Spelled = Callable[[str], list[int]]

HM = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|start|>assistant<|channel|>final<|message|>Four."
CALL = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{ }"


@pytest.mark.parametrize(
    ("written", "kept", "cut"),
    [
        (
            f"{HM}{FINAL}<|return|>",
            f"<|start|>assistant{HM}{FINAL}<|end|>",
            f"{FINAL}<|end|>",
        ),
        (f"{HM}{FINAL}", f"<|start|>assistant{HM}{FINAL}<|end|>", f"{FINAL}<|end|>"),
        (f"{CALL}<|call|>", f"<|start|>assistant{CALL}<|call|>", None),
        (f"{CALL}", f"<|start|>assistant{CALL}<|call|>", None),
        (f"{CALL}<|return|>", f"<|start|>assistant{CALL}<|end|>", None),
        # Off the format: written again as it was understood, or left out if nothing was.
        ("Hello", "<|start|>assistant<|channel|>final<|message|>Hello<|end|>", None),
        (
            f"{HM}Hello<|return|>",
            f"<|start|>assistant{HM[:-7]}<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Hello<|end|>",
            "<|start|>assistant<|channel|>final<|message|>Hello<|end|>",
        ),
        (
            '<|channel|>commentary to=functions.f{"a": 1}<|call|>',
            '<|start|>assistant to=functions.f<|channel|>commentary<|message|>{"a": 1}<|call|>',
            None,
        ),
        (f"{HM}<|start|>assistant<|channel|>fin", f"<|start|>assistant{HM}", ""),
        ("", "", None),
    ],
)
def test_tokens_become_whole_messages(
    tokenizer: Tokenizer, spelled: Spelled, written: str, kept: str, cut: str | None
) -> None:
    ids = spelled(written)
    assert tokenizer.decode(replay(ids, tokenizer, keep_reasoning=True)) == kept
    without = tokenizer.decode(replay(ids, tokenizer, keep_reasoning=False))
    assert without == (kept if cut is None else cut)


def test_the_models_own_tokens_are_reused(tokenizer: Tokenizer) -> None:
    """Also where encoding the text again would give other tokens."""
    odd = [*tokenizer.encode("Hel"), *tokenizer.encode("lo")]
    assert odd != tokenizer.encode("Hello")
    header = tokenizer.encode("assistant")
    ids = replay([200005, *tokenizer.encode("final"), 200008, *odd], tokenizer, keep_reasoning=True)
    assert ids == [START, *header, 200005, *tokenizer.encode("final"), 200008, *odd, 200007]


@pytest.mark.parametrize(
    ("written", "ends"),
    [
        (f"{HM}{FINAL}<|return|>", True),
        (f"{HM}{FINAL}", True),
        (f"{HM}", False),
        (f"{CALL}<|call|>", False),
        (f"{HM}Hello", True),
        (f"{FINAL}<|end|>{HM}", False),
        ("", False),
    ],
)
def test_an_answer_on_final_ends_the_turn(
    tokenizer: Tokenizer, spelled: Spelled, written: str, ends: bool
) -> None:
    assert ends_in_final(spelled(written), tokenizer) is ends


FRAGMENTS = (
    *("<|start|>", "<|start|>assistant", "<|end|>", "<|message|>", "<|channel|>", "<|return|>"),
    *("<|call|>", "analysis", "final", " to=functions.f", " json", "Hello", " world", "🦕"),
    *("<|channel|>analysis<|message|>", "<|channel|>final<|message|>", CALL, HM),
)


@given(written=st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_a_replayed_answer_reads_as_it_did(
    tokenizer: Tokenizer, spelled: Spelled, written: str
) -> None:
    ids = spelled(written)
    again = replay(ids, tokenizer, keep_reasoning=True)
    assert messages(tokenizer, ids) == messages(tokenizer, again)
    assert replay(again, tokenizer, keep_reasoning=True) == again


def messages(tokenizer: Tokenizer, ids: list[int]) -> list[tuple[object, ...]]:
    """Channel, recipient and text of each message that has text."""
    parser = HarmonyParser(tokenizer)
    found: list[tuple[object, ...]] = []
    for event in parser.feed(ids) + parser.finish():
        if isinstance(event, MessageStart):
            found.append((event.role, event.channel, event.recipient, ""))
        elif isinstance(event, TextDelta):
            *head, text = found[-1]
            found[-1] = (*head, f"{text}{event.text}")
        else:
            assert isinstance(event, MessageEnd)
    return [message for message in found if message[-1]]
