"""Which of the 201088 token ids the demo model stores rows for.

    python -m training.demo.vocabulary      writes vocabulary.json

Stored: single bytes, numbers of up to three digits, the special tokens of the format, whatever the
generator writes, and the most frequent English pieces up to the limit. All other ids share one row.
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

ROWS = 7423  # with the shared row 7424
PATH = Path(__file__).with_name("vocabulary.json")
SPECIAL = (ENDOFTEXT, RETURN, CONSTRAIN, CHANNEL, START, END, MESSAGE, CALL)


@cache
def stored_ids() -> list[int]:
    """The stored token ids, ascending."""
    ids: list[int] = json.loads(PATH.read_text())["stored"]
    return ids


@cache
def read_only_ids() -> frozenset[int]:
    """Stored ids that were added for reading after the training; the model does not write them."""
    return frozenset(json.loads(PATH.read_text())["read_only"])


@cache
def writable_ids() -> frozenset[int]:
    """Ids that the model learned to write."""
    return frozenset(stored_ids()) - read_only_ids()


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
    ids = choose(Tokenizer(), 25000)
    PATH.write_text(json.dumps({"stored": ids, "read_only": []}, separators=(",", ":")))
    print(f"{len(ids)} ids in {PATH.name}")
