"""Training documents are what the server would send and what its parser understands."""

from __future__ import annotations

import json

import pytest

from ossia.harmony.parser import HarmonyParser, MessageEnd, MessageStart, TextDelta
from ossia.harmony.prompt import render_prompt
from ossia.harmony.tokenizer import Tokenizer
from training.demo.batches import make_source
from training.demo.conversation import SKILLS, converse
from training.demo.documents import call_items, completion, documents, with_items
from training.demo.evaluation import SKILLS as EVALUATED
from training.demo.evaluation import cases, judge
from training.demo.exchange import Answer, Call
from training.demo.words import Source, is_held_out


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.mark.parametrize("skill", sorted(SKILLS))
def test_documents_are_prompts_of_the_server_and_the_answers_to_them(
    skill: str, tokenizer: Tokenizer
) -> None:
    source = make_source("test", tokenizer, held_out=False)
    for _ in range(20):
        conversation = converse(source, skill)
        [document] = documents(source, conversation, tokenizer)
        turn, exchange = conversation.turn, conversation.exchange
        steps = [*exchange.calls, exchange.answer]
        as_written = turn
        rendered = turn
        expected = []
        for index, step in enumerate(steps):
            expected.append(render_prompt(rendered, tokenizer) + completion(step, tokenizer))
            if isinstance(step, Call):
                items = call_items(step, index, tokenizer, as_written=True)
                as_written = with_items(as_written, items)
                items = call_items(step, index, tokenizer, as_written=False)
                rendered = with_items(rendered, items)
        whole = render_prompt(as_written, tokenizer) + completion(steps[-1], tokenizer)
        assert document.ids in [whole, *expected[1:]]
        own = [t for t, w in zip(document.ids, document.weights, strict=True) if w == 1.0]
        assert own[-len(completion(steps[-1], tokenizer)) :] or len(steps) > 1


def test_the_servers_parser_reads_the_answers_as_they_were_meant(tokenizer: Tokenizer) -> None:
    source = make_source("test", tokenizer, held_out=False)
    for _ in range(100):
        exchange = converse(source).exchange
        for step in (*exchange.calls, exchange.answer):
            parser = HarmonyParser(tokenizer)
            events = [*parser.feed(completion(step, tokenizer)), *parser.finish()]
            starts = [e for e in events if isinstance(e, MessageStart)]
            text = {s.index: "" for s in starts}
            for event in events:
                if isinstance(event, TextDelta):
                    text[event.index] += event.text
            assert [s.channel for s in starts][:1] == ["analysis"]
            assert text[starts[0].index] == step.reasoning
            last = next(e for e in reversed(events) if isinstance(e, MessageEnd))
            if isinstance(step, Answer):
                assert (starts[-1].channel, last.reason) == ("final", "return")
                assert text[starts[-1].index] == step.text
            else:
                assert starts[-1].recipient == f"functions.{step.name}"
                assert last.reason == "call"
                assert json.loads(text[starts[-1].index]) == json.loads(step.arguments)


def test_the_two_sides_of_the_split_share_no_drawn_string() -> None:
    training, held_out = Source(1, held_out=False), Source(1, held_out=True)

    def name(source: Source) -> str:
        return source.draw("function", lambda: f"get_{source.integer(0, 500)}")

    names = {name(training) for _ in range(2000)}, {name(held_out) for _ in range(500)}
    assert not names[0] & names[1]
    assert all(is_held_out("function", n) for n in names[1])


@pytest.mark.parametrize("skill", EVALUATED)
def test_the_expected_answer_of_every_case_is_judged_right(
    skill: str, tokenizer: Tokenizer
) -> None:
    for case in cases(skill, 5, tokenizer):
        outcome = judge(case, completion(case.step, tokenizer), tokenizer)
        assert outcome.well_formed
        assert outcome.right
        assert not judge(case, completion(case.step, tokenizer)[:-1], tokenizer).well_formed
