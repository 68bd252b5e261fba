"""The browser of gpt-oss: searching, opening and finding, with displays as in its training."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from urllib.parse import quote, unquote

from ossia.tools.addresses import ForbiddenAddress
from ossia.tools.browser.backend import SearchBackend
from ossia.tools.browser.content import (
    VIEW_SOURCE,
    Page,
    one_line,
    read_page,
    read_source,
    results_page,
)
from ossia.tools.browser.links import clean, strip_links
from ossia.tools.browser.opened import Conversations
from ossia.tools.tool import ToolError

MAX_HITS = 20
_VIEW_BYTES = 4096  # shown where the model asks for no number of lines: about 1,024 tokens
_MAX_VIEW_BYTES = 4 * _VIEW_BYTES  # however many lines it asks for
_LINE_BYTES = 12  # that a line's number counts for: its digits are tokens of their own
_MAX_MATCHES = 50
_MATCH_LINES = 4  # shown of each match
_LINES_BEFORE = 4  # a link to a line shows these before it


@dataclass(frozen=True, slots=True)
class Shown:
    """A display of a page."""

    cursor: int
    page: Page
    text: str


class Browser:
    """Serves all conversations, each with its own pages."""

    def __init__(self, backend: SearchBackend, conversations: Conversations | None = None) -> None:
        self._backend = backend
        self._conversations = Conversations() if conversations is None else conversations
        # Threads of its own: a page that takes long to read takes none from others.
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="ossia-browser")

    async def search(self, session: str, query: str, topn: int) -> Shown:
        """Show the results of a search. Raises ToolError, as all of these do."""
        if not query.strip():
            raise ToolError("The query is empty; say what to search for.")
        try:
            hits = await self._backend.search(query, min(max(topn, 1), MAX_HITS))
        except ForbiddenAddress as error:
            raise ToolError(error.message) from None
        return self._show(session, results_page(query, hits))

    async def open_url(
        self, session: str, url: str, loc: int = -1, num_lines: int = -1, *, source: bool = False
    ) -> Shown:
        """Show a page that the model knows the URL of, as it is now."""
        page = await self._load(url.strip(), source=source)
        return self._show(session, page, loc, num_lines)

    async def open_link(
        self,
        session: str,
        link: int = -1,
        cursor: int = -1,
        loc: int = -1,
        num_lines: int = -1,
        *,
        source: bool = False,
    ) -> Shown:
        """Follow a link of a page, or show other lines of the page itself (-1)."""
        opened = self._conversations.of(session)
        page = opened.at(cursor)
        url = page.url if link < 0 else _linked(page, link)
        if link >= 0 and page.found_in is not None and loc < 0:
            loc = max(page.matches[link] - _LINES_BEFORE, 0)
        if source:
            url = url.removeprefix(VIEW_SOURCE)
            if not url:
                raise ToolError("A page of search results has no source.")
            page = await self._load(url, source=True)
        elif link >= 0:
            page = page.found_in or opened.with_url(url) or await self._load(url)
        return self._show(session, page, loc, num_lines)

    async def find(self, session: str, pattern: str, cursor: int = -1) -> Shown:
        """Show where a page says something."""
        page = self._conversations.of(session).at(cursor)
        if not pattern.strip():
            raise ToolError("The pattern is empty; say which text to find.")
        if page.found_in is not None:
            raise ToolError("This page is what find found; give the cursor of the page itself.")
        return self._show(session, _matches(page, pattern))

    async def close(self) -> None:
        """Give back what it holds. May be called more than once."""
        self._conversations.clear()
        await asyncio.to_thread(self._readers.shutdown, cancel_futures=True)
        await self._backend.close()

    async def _load(self, url: str, *, source: bool = False) -> Page:
        try:
            found = await self._backend.open(url)
        except ForbiddenAddress as error:
            raise ToolError(error.message) from None
        read = read_source if source else read_page
        return await asyncio.get_running_loop().run_in_executor(self._readers, read, found)

    def _show(self, session: str, page: Page, loc: int = -1, num_lines: int = -1) -> Shown:
        first = max(loc, 0)
        if first >= len(page.lines):
            raise ToolError(
                f"There is no line {first}; the last line of this page is {len(page.lines) - 1}."
            )
        # Asked for again: while the page was loaded, the conversation may have been forgotten.
        cursor = self._conversations.of(session).add(page)
        return Shown(cursor, page, display(cursor, page, first, num_lines))


def display(cursor: int, page: Page, first: int, num_lines: int) -> str:
    """Lines of a page from `first` on, as many as fit if `num_lines` is not positive."""
    limit = _MAX_VIEW_BYTES if num_lines > 0 else _VIEW_BYTES
    wanted = page.lines[first : first + num_lines] if num_lines > 0 else page.lines[first:]
    shown = _fitting(wanted, limit)
    title = f"{page.title} ({one_line(unquote(page.url), 1024)})" if page.url else page.title
    body = "\n".join(f"L{first + index}: {line}" for index, line in enumerate(shown))
    return (
        f"[{cursor}] {title}\n"
        f"**viewing lines [{first} - {first + len(shown) - 1}] of {len(page.lines) - 1}**\n\n"
        f"{body}"
    )


def _linked(page: Page, link: int) -> str:
    if link >= len(page.links):
        known = f"0 to {len(page.links) - 1}" if page.links else "none"
        raise ToolError(f"There is no link {link} on this page; its links are {known}.")
    return page.links[link]


def _fitting(lines: Sequence[str], limit: int) -> Sequence[str]:
    """The lines at the beginning that fit into a view; one at least."""
    size = 0
    for index, line in enumerate(lines):
        size += len(line.encode("utf-8", "replace")) + _LINE_BYTES
        if size > limit and index:
            return lines[:index]
    return lines


def _matches(page: Page, pattern: str) -> Page:
    """A page of the places where `pattern` stands, in any case and across line breaks."""
    lines = [strip_links(line) for line in page.lines]
    words = [" ".join(line.lower().split()) for line in lines]
    starts = [0, *accumulate(len(text) + 1 for text in words)]
    text = " ".join(words)
    wanted = " ".join(pattern.lower().split())
    results: list[str] = []
    found: list[int] = []
    position = text.find(wanted)
    while position >= 0 and len(found) < _MAX_MATCHES:
        line = bisect_right(starts, position) - 1
        results += [f"# 【{len(found)}†match at L{line}】", *lines[line : line + _MATCH_LINES], ""]
        found.append(line)
        position = text.find(wanted, starts[min(line + _MATCH_LINES, len(lines))])
    shown = one_line(clean(pattern), 200)
    return Page(
        url=f"{page.url}/find?pattern={quote(pattern[:200], errors='replace')}",
        title=f"Find results for text: `{shown}` in `{page.title}`",
        lines=tuple(results[:-1]) or (f"No `find` results for pattern: `{shown}`",),
        links=(page.url,) * len(found),
        found_in=page,
        matches=tuple(found),
    )
