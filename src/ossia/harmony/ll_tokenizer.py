"""The vocabulary as llguidance wants it: what turns a grammar into masks over token ids.

llguidance is imported when it is first needed, so that importing ossia does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ossia.harmony.tokenizer import ENDOFTEXT, FIRST_SPECIAL, VOCAB_SIZE, Tokenizer

if TYPE_CHECKING:
    from llguidance import LLParserLimits, LLTokenizer


def ll_tokenizer(tokenizer: Tokenizer) -> LLTokenizer:
    """llguidance's view of the vocabulary. Takes about 0.7 s: construct once and share.

    Its end of sequence is `<|endoftext|>`, which no grammar of ours contains. Special tokens never
    match text: a grammar has to name them by id. The result may be shared between threads.
    """
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Vocabulary(tokenizer)), n_vocab=VOCAB_SIZE)


def parser_limits() -> LLParserLimits:
    """Bounds on what one grammar may cost, the same where it is checked and where it runs.

    A grammar over the bounds is an error of that grammar; nothing else is disturbed. Error texts
    leave out the state of the parser, which could hold what a user wrote.
    """
    from llguidance import LLParserLimits

    return LLParserLimits(
        initial_lexer_fuel=4_000_000,  # up to a second
        step_lexer_fuel=200_000,  # about 14 ms for one mask
        step_max_items=50_000,
        max_lexer_states=250_000,  # 1 to 2 kB each
        max_items_in_row=5_000,  # about 1,200 optional properties in one object
        max_grammar_size=500_000,  # symbols
        verbose_errors=False,
    )


class _Vocabulary:
    """What `TokenizerWrapper` asks of a tokenizer."""

    eos_token_id = ENDOFTEXT
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.tokens = [tokenizer.token_bytes(token) for token in range(VOCAB_SIZE)]
        self.special_token_ids = list(range(FIRST_SPECIAL, VOCAB_SIZE))

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return self._tokenizer.encode(text)
