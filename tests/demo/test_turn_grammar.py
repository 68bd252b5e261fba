"""What the demo model was trained to write is what the turn grammar lets it write."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from llguidance import LLMatcher, LLTokenizer

from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.ll_tokenizer import ll_tokenizer
from ossia.harmony.prompt import developer_text
from ossia.harmony.tokenizer import Tokenizer
from ossia.turn import Instructions, OutputFormat, Turn
from training.demo.batches import make_source
from training.demo.conversation import SKILLS, converse
from training.demo.documents import completion


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Tokenizer) -> LLTokenizer:
    return ll_tokenizer(tokenizer)


def output_of(text: str) -> OutputFormat | None:
    """The schema in a training prompt, as a request would bring it."""
    if not text.startswith("# Response Formats"):
        return None
    name = text.split("## ")[1].split("\n")[0]
    return OutputFormat("json_schema", schema=json.loads(text[text.index("{") :]), name=name)


@pytest.mark.parametrize("skill", sorted(SKILLS))
def test_answers_of_the_training_data_may_be_written(
    skill: str, tokenizer: Tokenizer, compiler: GrammarCompiler, vocabulary: LLTokenizer
) -> None:
    source = make_source("grammar", tokenizer, held_out=False)
    for _ in range(25):
        conversation = converse(source, skill)
        exchange = conversation.exchange
        turn = replace(conversation.turn, output=output_of(exchange.instructions))
        grammar = compiler.compile(turn).whole
        for step in (*exchange.calls, exchange.answer):
            ids = completion(step, tokenizer)
            matcher = LLMatcher(vocabulary, grammar)
            assert matcher.try_consume_tokens(ids) == len(ids), tokenizer.decode(ids)
            assert matcher.is_accepting()


def test_a_schema_is_shown_in_the_form_of_the_training_data(tokenizer: Tokenizer) -> None:
    source = make_source("form", tokenizer, held_out=False)
    seen = 0
    for _ in range(200):
        text = converse(source, "schema").exchange.instructions
        output = output_of(text)
        assert output is not None
        shown = developer_text(Turn((Instructions("Be kind."),), output=output), tokenizer)
        seen += shown == f"# Instructions\n\nBe kind.\n\n{text}"
    assert seen > 20  # clients space their schemas and describe them in several ways
