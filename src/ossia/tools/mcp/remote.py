"""What a server says of its tools, in terms of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RemoteTool:
    """A tool as its server lists it."""

    name: str
    description: str
    parameters: Mapping[str, Any]  # JSON schema
    repeatable: bool  # calling it twice does no more harm than once


class NotRun(Exception):
    """The server did not begin with the call; it can be made again."""

    def __init__(self, reason: str, *, session_gone: bool) -> None:
        super().__init__(reason)
        self.reason = reason  # half a sentence about the server
        self.session_gone = session_gone  # the server is there, but has forgotten us


class ConnectionLost(Exception):
    """The connection ended in mid-call; nobody knows whether the server did what was asked."""
