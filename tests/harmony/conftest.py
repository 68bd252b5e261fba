from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher
from numpy.typing import NDArray

from ossia.harmony import tokenizer as tokens
from ossia.harmony.grammar import GrammarCompiler
from ossia.harmony.ll_tokenizer import ll_tokenizer, parser_limits
from ossia.harmony.tokenizer import ENDOFTEXT, FIRST_SPECIAL, VOCAB_SIZE, Tokenizer

MARKERS = {
    f"<|{name}|>": getattr(tokens, name.upper())
    for name in ("start", "end", "message", "channel", "constrain", "return", "call", "endoftext")
}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer()


@pytest.fixture(scope="session")
def spelled(tokenizer: Tokenizer) -> Callable[[str], list[int]]:
    """Token ids of a text in which markers such as <|start|> mean the special tokens."""

    def ids(text: str) -> list[int]:
        parts = re.split(r"(<\|[a-z]+\|>)", text)
        return [
            token
            for part in parts
            for token in ([MARKERS[part]] if part in MARKERS else tokenizer.encode(part))
        ]

    return ids


@pytest.fixture(scope="session")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer)


class Held:
    """What a model may write that is held to a grammar."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ll_tokenizer = ll_tokenizer(tokenizer)
        spelled = [tokenizer.token_bytes(token) for token in range(VOCAB_SIZE)]
        self._ends = np.array([text[:1] in (b'"', b"}", b"]", b",", b"<") for text in spelled])
        self._special = np.arange(VOCAB_SIZE) >= FIRST_SPECIAL
        self._short = np.array([len(text) <= 2 for text in spelled])

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)

    def matcher(self, grammar: str) -> LLMatcher:
        matcher = LLMatcher(self._ll_tokenizer, grammar, log_level=0, limits=parser_limits())
        assert not matcher.is_error(), matcher.get_error()
        return matcher

    def accepts(self, grammar: str, ids: Sequence[int]) -> bool:
        """Whether this is all that has to be written, and may be."""
        matcher = self.matcher(grammar)
        return matcher.try_consume_tokens(list(ids)) == len(ids) and matcher.is_accepting()

    def begins(self, grammar: str, ids: Sequence[int]) -> bool:
        """Whether something that may be written begins so."""
        return self.matcher(grammar).try_consume_tokens(list(ids)) == len(ids)

    def allowed(self, grammar: str, ids: Sequence[int]) -> NDArray[np.int64]:
        """The tokens that may follow."""
        matcher = self.matcher(grammar)
        assert matcher.try_consume_tokens(list(ids)) == len(ids)
        return self._mask(matcher)

    def json(self, schema: dict[str, Any], text: str) -> bool:
        """Whether a prepared schema lets this text be written."""
        return self.accepts(whole_schema(schema), self._tokenizer.encode(text))

    def walk(self, grammar: str, source: random.Random, most: int = 300) -> list[int] | None:
        """Tokens chosen at random, with a liking for those that end something; None if too long."""
        matcher = self.matcher(grammar)
        ids: list[int] = []
        while len(ids) < most:
            choice = self._mask(matcher)
            done = matcher.is_accepting()
            if done and (len(choice) == 0 or source.random() < 0.5):
                return ids
            assert len(choice), (matcher.get_error(), self._tokenizer.decode(ids))
            hurry = len(ids) / most
            likings = ((self._special, 0.1 + hurry), (self._ends, 0.2 + hurry), (self._short, 0.5))
            for kind, chance in likings:
                if source.random() < chance and kind[choice].any():
                    choice = choice[kind[choice]]
                    break
            token = int(choice[source.randrange(len(choice))])
            assert matcher.consume_token(token), matcher.get_error()
            ids.append(token)
        return None

    def _mask(self, matcher: LLMatcher) -> NDArray[np.int64]:
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        assert not matcher.is_error(), matcher.get_error()
        mask = np.unpackbits(bits, bitorder="little")[:VOCAB_SIZE]
        mask[ENDOFTEXT] = 0  # what llguidance allows where the grammar is at its end
        return np.flatnonzero(mask)


@pytest.fixture(scope="session")
def held(tokenizer: Tokenizer) -> Held:
    return Held(tokenizer)


def whole_schema(grammar: dict[str, Any]) -> str:
    """A grammar of nothing but a prepared schema."""
    return json.dumps({"grammars": [grammar]})
