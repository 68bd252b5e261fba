"""What can go wrong with an open store. Failures to open one are `StartupError`s."""

from __future__ import annotations

from ossia.errors import OssiaError, RequestError


class MissingResponse(OssiaError):
    """A response that was never stored, or is deleted or expired."""

    def __init__(self, response_id: str) -> None:
        super().__init__(f"The response {response_id!r} is not stored, or no longer.")
        self.id = response_id


class MissingConversation(OssiaError):
    """A conversation that was never made, or is deleted or expired."""

    def __init__(self, conversation_id: str) -> None:
        super().__init__(f"The conversation {conversation_id!r} is not stored, or no longer.")
        self.id = conversation_id


class MissingItem(OssiaError):
    """A conversation has no such item."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"The conversation has no item {item_id!r}.")
        self.id = item_id


class DuplicateItem(OssiaError):
    """An id that one conversation would have twice."""

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"The conversation already has an item {item_id!r}; leave the id out or choose another."
        )
        self.id = item_id


class StoreUnavailable(RequestError):
    """The database does not answer: its disk is full, its server is down, others hold its lock.

    The log says which; the client need not know where responses are kept.
    """

    status = 503
    type = "server_error"
    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The store of responses cannot be used at the moment; please retry later, or send "
            '"store": false.'
        )
