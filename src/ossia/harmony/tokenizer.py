"""Text to token ids and back, in the o200k_harmony vocabulary.

The vocabulary comes embedded in oss-harmony, so nothing is downloaded. Text never becomes a
special token here: only `harmony/prompt.py` writes special tokens, by their ids.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from openai_harmony import HarmonyEncodingName, load_harmony_encoding

from ossia.harmony.long_text import LongTextEncoder, needs_care

VOCAB_SIZE = 201088  # rows of the embedding
FIRST_SPECIAL = 199998  # ordinary tokens are below, special tokens from here on

ENDOFTEXT = 199999
RETURN = 200002
CONSTRAIN = 200003
CHANNEL = 200005
START = 200006
END = 200007
MESSAGE = 200008
CALL = 200012


class Tokenizer:
    """The o200k_harmony vocabulary. Takes about 0.2 s to construct; construct once and share."""

    vocab_size = VOCAB_SIZE

    def __init__(self) -> None:
        # oss-harmony's own encoding, for its rendering of tool declarations
        self.harmony = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
        self._encode = self.harmony._inner.encode
        self._decode_bytes = self.harmony._inner.decode_bytes
        self._bytes_of: dict[int, bytes] = {}
        self._long_text: LongTextEncoder | None = None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, all ordinary: the spelling of a special token is plain text.

        Lone surrogates (JSON can carry them) become U+FFFD. Time grows linearly with the text,
        whatever the text is.
        """
        try:
            return self._encode_scalars(text)
        except UnicodeEncodeError:
            return self._encode_scalars(replace_surrogates(text))

    def _encode_scalars(self, text: str) -> list[int]:
        if not needs_care(text):
            ids: list[int] = self._encode(text, [])
            return ids
        if self._long_text is None:
            vocabulary = {self.token_bytes(token): token for token in range(FIRST_SPECIAL)}
            self._long_text = LongTextEncoder(vocabulary, lambda part: self._encode(part, []))
        return self._long_text.encode(text)

    def token_bytes(self, token: int) -> bytes:
        """UTF-8 bytes of one token, possibly part of a character; b"" for an id out of range."""
        known = self._bytes_of.get(token)
        if known is None:
            if not 0 <= token < VOCAB_SIZE:
                return b""
            known = bytes(self._decode_bytes([token]))
            self._bytes_of[token] = known
        return known

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """Bytes of the tokens in order: special tokens as spelled, unknown ids as nothing."""
        return b"".join(map(self.token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the tokens; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def is_special(self, token: int) -> bool:
        """Whether the id is one of the vocabulary's special tokens, the reserved ones included."""
        return FIRST_SPECIAL <= token < VOCAB_SIZE


class Utf8Decoder:
    """Bytes to text, piece by piece: a character split over pieces is held back until complete.

    Invalid bytes become U+FFFD, the same whichever way the bytes are split.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, data: bytes) -> str:
        """Text that is complete now; "" while a character is incomplete."""
        return self._decoder.decode(data)

    @property
    def pending(self) -> bool:
        """Whether bytes of an incomplete character are held back."""
        return bool(self._decoder.getstate()[0])

    def flush(self) -> str:
        """End of the text: an incomplete character becomes U+FFFD. Ready for another text then."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest


def replace_surrogates(text: str) -> str:
    """`text` with surrogate pairs joined and lone surrogates as U+FFFD: every UTF-8 can say it."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
