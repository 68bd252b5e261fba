"""What a client carries for the server: encrypted, and refused when it was altered."""

from __future__ import annotations

from collections.abc import Iterable

from ossia.errors import InvalidRequest
from ossia.server.responses.transcript import decode_items, encode_items
from ossia.store.sealing import Sealer, SealError
from ossia.turn import Item

_REASONING = "reasoning"
_COMPACTION = "compaction"


class ReasoningSeal:
    """Seals reasoning, and conversations that were made shorter, with the key of this server."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal_text(self, text: str) -> str:
        """Reasoning as `encrypted_content`."""
        return self._sealer.seal(text.encode("utf-8", "surrogatepass"), _REASONING)

    def open_text(self, sealed: str, path: str) -> str:
        """The reasoning of the item at `path`.

        Raises:
            InvalidRequest: it was altered, cut, or sealed with another key.
        """
        return self._open(sealed, _REASONING, path).decode("utf-8", "surrogatepass")

    def seal_items(self, items: Iterable[Item]) -> str:
        """A conversation as `encrypted_content`."""
        return self._sealer.seal(encode_items(items), _COMPACTION)

    def open_items(self, sealed: str, path: str) -> list[Item]:
        """The conversation in the item at `path`.

        Raises:
            InvalidRequest: it was altered, cut, or sealed with another key.
        """
        return decode_items(self._open(sealed, _COMPACTION, path))

    def _open(self, sealed: str, purpose: str, path: str) -> bytes:
        try:
            return self._sealer.open(sealed, purpose)
        except SealError:
            raise InvalidRequest(
                f"{path}.encrypted_content was not made by this server, or was altered; send it as "
                "it came, or leave the item out.",
                param=f"{path}.encrypted_content",
                code="invalid_encrypted_content",
            ) from None
