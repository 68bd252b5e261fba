"""What the browser needs of whoever finds pages for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SearchHit:
    """One result of a search."""

    url: str
    title: str
    snippet: str


@dataclass(frozen=True, slots=True)
class PageText:
    """A page as it was found."""

    url: str
    title: str | None  # None if only its text tells
    content_type: str  # text/html and text/markdown are made readable, others shown as they are
    text: str


class SearchBackend(Protocol):
    """Finds pages and opens them. One serves all conversations, in one event loop."""

    async def search(self, query: str, topn: int) -> Sequence[SearchHit]:
        """The best pages for a query, at most `topn`, best first.

        Raises:
            ToolError: the search cannot be done.
        """

    async def open(self, url: str) -> PageText:
        """The page at a URL.

        Raises:
            ToolError: there is none, or none that the model may read.
            ForbiddenAddress: the URL must not be contacted.
        """

    async def close(self) -> None:
        """Give back what it holds. May be called more than once."""
