"""The pages that each conversation has opened, by their cursors: so many, for so long."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from ossia.tools.browser.content import Page
from ossia.tools.tool import ToolError

MAX_PAGES = 200  # of a conversation
MAX_BYTES = 16 << 20  # of a conversation
MAX_TOTAL_BYTES = 256 << 20
MAX_IDLE = 30 * 60.0  # seconds


class OpenedPages:
    """The pages of one conversation. Cursors count on when the oldest pages go."""

    def __init__(self, max_pages: int = MAX_PAGES, max_bytes: int = MAX_BYTES) -> None:
        self._max_pages = max_pages
        self._max_bytes = max_bytes
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._next = 0
        self.size = 0  # bytes; a page that has many cursors counts once
        self.used_at = 0.0  # seconds

    def add(self, page: Page) -> int:
        """Show a page; its cursor."""
        cursor = self._next
        self._next += 1
        self._pages[cursor] = page
        self._measure()
        while len(self._pages) > 1 and (
            len(self._pages) > self._max_pages or self.size > self._max_bytes
        ):
            self._pages.popitem(last=False)
            self._measure()
        return cursor

    def at(self, cursor: int) -> Page:
        """The page at a cursor; -1 is the one shown last.

        Raises:
            ToolError: there is none.
        """
        if not self._pages:
            raise ToolError("No page is open yet: search, or open a URL, first.")
        if cursor == -1:
            cursor = self._next - 1
        page = self._pages.get(cursor)
        if page is None:
            first = next(iter(self._pages))
            raise ToolError(
                f"There is no page with the cursor {cursor}; the cursors are {first} to "
                f"{self._next - 1}."
            )
        return page

    def with_url(self, url: str) -> Page | None:
        """The page of this URL that was shown last."""
        return next((page for page in reversed(self._pages.values()) if page.url == url), None)

    def _measure(self) -> None:
        pages = {id(page): page for page in self._pages.values()}
        self.size = sum(page.size for page in pages.values())


class Conversations:
    """Who has opened what. For one event loop."""

    def __init__(
        self,
        max_idle: float = MAX_IDLE,
        max_bytes: int = MAX_TOTAL_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`max_idle` in seconds of `clock`, `max_bytes` of all conversations together."""
        self._max_idle = max_idle
        self._max_bytes = max_bytes
        self._clock = clock
        self._opened: OrderedDict[str, OpenedPages] = OrderedDict()  # used last at the end

    def __len__(self) -> int:
        """How many conversations have pages."""
        return len(self._opened)

    def of(self, session: str) -> OpenedPages:
        """The pages of a conversation, which are used now."""
        self._shrink()
        opened = self._opened.setdefault(session, OpenedPages())
        opened.used_at = self._clock()
        self._opened.move_to_end(session)
        return opened

    def clear(self) -> None:
        """Forget all of it."""
        self._opened.clear()

    def _shrink(self) -> None:
        too_old = self._clock() - self._max_idle
        size = sum(opened.size for opened in self._opened.values())
        while self._opened:
            session, oldest = next(iter(self._opened.items()))
            if oldest.used_at >= too_old and size <= self._max_bytes:
                return
            del self._opened[session]
            size -= oldest.size
