from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ossia.harmony import tokenizer as tokens
from ossia.harmony.tokenizer import Tokenizer

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
