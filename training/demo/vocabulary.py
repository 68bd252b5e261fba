"""Which of the 201088 token ids the demo model stores rows for.

    python -m training.demo.vocabulary      writes vocabulary.json

Stored: single bytes, numbers of up to three digits, the special tokens of the format, the names of
common functions, whatever the generator writes, and the most frequent English pieces up to the
limit. All other ids share one row.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

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
    Tokenizer,
)
from training.demo import words as word_lists
from training.demo.words import Source

ROWS = 7759  # with the shared row 7760; more would make the files larger than 16 MiB
PATH = Path(__file__).with_name("vocabulary.json")
SPECIAL = (ENDOFTEXT, RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL)


@cache
def stored_ids() -> list[int]:
    """The stored token ids, ascending."""
    ids: list[int] = json.loads(PATH.read_text())
    return ids


@cache
def writable_ids() -> frozenset[int]:
    """The same as a set: ids that the model can write."""
    return frozenset(stored_ids())


def pieces(tokenizer: Tokenizer) -> list[str]:
    """Words whose stored tokens can write them after a space and elsewhere.

    Those of one token each, and all words of the generator's lists.
    """
    stored = writable_ids()
    texts = {tokenizer.decode([i]) for i in stored if i < FIRST_SPECIAL}
    words = {t for t in texts if re.fullmatch(r"[A-Za-z]{2,}|[0-9]{1,3}", t)}
    words.update(word for text in word_lists.EVERY_LIST for word in text)
    return sorted(
        w for w in words if stored.issuperset([*tokenizer.encode(w), *tokenizer.encode(f" {w}")])
    )


def strange_words(tokenizer: Tokenizer, count: int = 4000) -> list[str]:
    """Words that begin with a token that is not stored, in any script."""
    source = Source("strange words", held_out=False)
    stored, out = set(stored_ids()), []
    while len(out) < count:
        token = source.integer(3000, FIRST_SPECIAL - 1)
        text = tokenizer.decode([token]).strip()
        if token not in stored and len(text) > 1 and "\ufffd" not in text and text.isprintable():
            out.append(text)
    return out


def listed_tokens(tokenizer: Tokenizer) -> set[int]:
    """Tokens of phrases and of the names of common functions, as headers and thoughts have them."""
    from training.demo.topics import TOPICS
    from training.demo.work_values import FOREIGN_TEXTS

    texts: list[str] = []
    for topic in TOPICS:
        pairs = (f"{verb}_{noun}" for verb in topic.verbs for noun in topic.nouns)
        for name in (*topic.nouns, *pairs):
            texts += [f"to=functions.{name} ", f"{name} fits", f" {name}, {name}."]
    for text in FOREIGN_TEXTS:
        texts += [f" {text}.", f'"{text}"', text]
    return {token for text in texts for token in tokenizer.encode(text)}


def choose(tokenizer: Tokenizer, conversations: int) -> list[int]:
    """Count the tokens of generated conversations and fill up with frequent English pieces."""
    from training.demo.conversation import converse
    from training.demo.documents import documents

    base: set[int] = set(SPECIAL)
    by_text: dict[bytes, int] = {}
    for token in range(FIRST_SPECIAL):
        text = tokenizer.token_bytes(token)
        by_text[text] = token
        if len(text) == 1 or re.fullmatch(rb"[0-9]{1,3}", text):
            base.add(token)
    base.update(listed_tokens(tokenizer))
    counts: Counter[int] = Counter()
    written: Counter[int] = Counter()  # by the model
    for held_out in (False, True):
        source = Source("vocabulary", held_out=held_out)
        for _ in range(conversations):
            for document in documents(source, converse(source), tokenizer):
                counts.update(document.ids)
                pairs = zip(document.ids, document.weights, strict=True)
                written.update(token for token, weight in pairs if weight == 1.0)
    for least, group in ((3, written), (8, counts)):
        chosen = [t for t, count in group.most_common() if count >= least and t not in base]
        base.update(chosen[: ROWS - len(base)])
        print(f"{len(base)} ids by rule and by count, of {len(group)} seen")
    english = re.compile(rb"[ _.]?[a-z]{2,12}|[ ]?[A-Z][a-z]{1,12}|[\x20-\x7e]{2}|\n+")
    for token in range(FIRST_SPECIAL):
        if len(base) == ROWS:
            break
        if english.fullmatch(tokenizer.token_bytes(token)):
            base.add(token)
    return sorted(base)


if __name__ == "__main__":
    ids = choose(Tokenizer(), 40000)
    PATH.write_text(json.dumps(ids, separators=(",", ":")))
    print(f"{len(ids)} ids in {PATH.name}")
