"""The end of a turn, as clients are told it."""

from __future__ import annotations

import pytest

from ossia.answer.assembler import TurnAssembler
from ossia.answer.finish import finish
from ossia.engine.messages import Chunk, PhaseCut
from ossia.harmony.parser import Channel
from ossia.harmony.tokenizer import CHANNEL, END, MESSAGE, RETURN, START, Tokenizer

TOKENIZER = Tokenizer()


def test_an_ordinary_end_needs_no_details() -> None:
    assert finish("stop", channel="final") == ("stop", None)
    assert finish("stop", calls=2, channel="commentary") == ("tool_calls", None)


def test_a_stop_string_goes_before_all_else() -> None:
    assert finish("length", stopped=True, channel="final") == ("stop", None)
    assert finish("stop", stopped=True, calls=1, channel="final") == ("stop", None)


@pytest.mark.parametrize("channel", ["analysis", "commentary", "final", None])
def test_running_out_of_tokens_says_where(channel: Channel | None) -> None:
    reason, details = finish("length", calls=1, channel=channel, cut="loop")
    assert reason == "length"
    assert details is not None
    assert details.body() == {
        "type": "max_tokens",
        "channel": channel,
        "message": details.message,
    }
    assert details.message.endswith(".")


@pytest.mark.parametrize("channel", ["commentary", "final"])
def test_an_endless_answer_has_no_proper_end(channel: Channel) -> None:
    reason, details = finish("loop", calls=1, channel=channel)
    assert reason == "length"
    assert details is not None
    assert details.body() == {"type": "loop", "channel": channel, "message": details.message}
    assert "repeated" in details.message
    assert finish("loop", stopped=True, channel=channel) == ("stop", None)


@pytest.mark.parametrize("cut", ["max_tokens", "loop"])
def test_reasoning_that_was_ended_is_told(cut: PhaseCut) -> None:
    reason, details = finish("stop", channel="final", cut=cut)
    assert reason == "stop"
    assert details is not None
    assert details.body() == {
        "type": "reasoning_cut",
        "reason": cut,
        "message": details.message,
    }


def test_the_assembler_tells_of_a_cut_in_an_earlier_chunk() -> None:
    def word(text: str) -> list[int]:
        return TOKENIZER.encode(text)

    assembler = TurnAssembler(TOKENIZER, [])
    thought = [CHANNEL, *word("analysis"), MESSAGE, *word("Hm, hm"), END]
    answer = [START, *word("assistant"), CHANNEL, *word("final"), MESSAGE, *word("Yes."), RETURN]
    assembler.feed(Chunk("r", thought, cut="loop"))
    assembler.feed(Chunk("r", answer, finish_reason="stop"))
    assert assembler.finish_reason == "stop"
    assert assembler.finish_details is not None
    assert assembler.finish_details.reason == "loop"
    assert assembler.is_whole


def test_the_assembler_knows_the_channel_it_stopped_on() -> None:
    assembler = TurnAssembler(TOKENIZER, [])
    begun = [CHANNEL, *TOKENIZER.encode("analysis"), MESSAGE, *TOKENIZER.encode("Hm")]
    assembler.feed(Chunk("r", begun, finish_reason="length"))
    assert assembler.finish_reason == "length"
    assert assembler.finish_details is not None
    assert assembler.finish_details.channel == "analysis"
