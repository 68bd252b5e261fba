"""Reasoning that a client carries for the server: encrypted, and refused when it was altered."""

from __future__ import annotations

from typing import Literal

from ossia.errors import InvalidRequest
from ossia.store.sealing import Sealer, SealError

Purpose = Literal["reasoning", "summary"]


class ReasoningSeal:
    """Seals texts with the key of this server."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def seal(self, text: str, purpose: Purpose) -> str:
        """The text as `encrypted_content`."""
        return self._sealer.seal(text.encode("utf-8", "surrogatepass"), purpose)

    def open(self, sealed: str, purpose: Purpose, path: str) -> str:
        """The text of an item at `path`.

        Raises:
            InvalidRequest: it was altered, cut, or sealed with another key.
        """
        try:
            return self._sealer.open(sealed, purpose).decode("utf-8", "surrogatepass")
        except SealError:
            raise InvalidRequest(
                f"{path}.encrypted_content was not made by this server, or was altered; send it as "
                "it came, or leave the item out.",
                param=f"{path}.encrypted_content",
                code="invalid_encrypted_content",
            ) from None
