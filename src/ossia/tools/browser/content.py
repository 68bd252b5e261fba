"""What a back end found, made into a page that the model reads."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

from ossia.tools.browser.backend import PageText, SearchHit
from ossia.tools.browser.html_text import html_to_text
from ossia.tools.browser.links import LOCAL, LinkNumbers, clean, domain_of, local_path

WIDTH = 80  # characters of a line, as in the training of gpt-oss
VIEW_SOURCE = "view-source:"  # before the URL of a page that is shown as its server sent it
_PIECE = 8000  # characters that are wrapped at a time: longer lines would take long
_MAX_SNIPPET = 500  # characters
_MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\[\]\n]{1,500})\]\(<?([^()\s<>]{1,2000})>?\)")


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a page of results speaks of another page."""

    line: int  # the first that does
    url: str
    title: str


@dataclass(frozen=True, slots=True)
class Page:
    """What the model sees at a cursor: lines, and links by their numbers."""

    url: str  # "" of a page of search results
    title: str
    lines: tuple[str, ...]
    links: tuple[str, ...] = ()
    spots: tuple[Spot, ...] = ()  # of results, by line
    found_in: Page | None = None  # of what `find` found: the page that it was found in
    matches: tuple[int, ...] = ()  # and the lines there, by link
    size: int = field(default=0, compare=False)  # bytes of memory, about

    def __post_init__(self) -> None:
        size = sum(map(sys.getsizeof, self.lines)) + sum(map(sys.getsizeof, self.links))
        object.__setattr__(self, "size", size)


@dataclass(frozen=True, slots=True)
class Readable:
    """A page as text that is not yet broken into lines."""

    title: str
    text: str
    links: tuple[str, ...]


def readable(found: PageText) -> Readable:
    """A page as text with numbered links. Takes a second for a megabyte of HTML."""
    links = LinkNumbers(found.url)
    if found.content_type in ("text/html", "application/xhtml+xml"):
        text, title = html_to_text(found.text, links)
    elif found.content_type == "text/markdown":
        text, title = markdown_text(found.text, links), _first_heading(found)
    else:
        text, title = clean(found.text), ""
    title = one_line(found.title or title or _place(found.url))
    return Readable(title, _fewer_blank_lines(text), links.urls)


def read_page(found: PageText) -> Page:
    """A page for the model."""
    page = readable(found)
    # The pages of gpt-oss's training begin so.
    return Page(found.url, page.title, wrapped(f"\nURL: {found.url}\n{page.text}"), page.links)


def read_source(found: PageText) -> Page:
    """A page as its server sent it."""
    lines = wrapped(clean(found.text))
    return Page(f"{VIEW_SOURCE}{found.url}", one_line(found.title or found.url), lines)


def results_page(query: str, hits: Sequence[SearchHit]) -> Page:
    """A page of links with what each leads to."""
    links = LinkNumbers("")
    lines = ["", "URL: ", "# Search Results", ""]
    spots = []
    for hit in hits:
        mark = links.mark(hit.title or hit.url, hit.url)
        if not mark.startswith("【"):
            continue  # it leads to no page
        snippet = one_line(hit.snippet, _MAX_SNIPPET)
        spots.append(Spot(len(lines), hit.url, one_line(hit.title or hit.url)))
        lines += wrapped(f"  * {mark} {snippet}".rstrip())
    if not spots:
        lines.append("Nothing was found; try other words.")
    return Page("", one_line(query), tuple(lines), links.urls, tuple(spots))


def markdown_text(text: str, links: LinkNumbers) -> str:
    """Markdown as it is, but for its links outside of code."""
    parts = re.split(r"(?m)^(\s{0,3}(?:```|~~~).*)$", clean(text))
    # Every second part is a fence; between an odd one and the next stands code.
    for index in range(0, len(parts), 4):
        parts[index] = _MARKDOWN_LINK.sub(
            lambda match: links.mark(match[1], match[2]) or match[1], parts[index]
        )
    return "".join(parts)


def wrapped(text: str) -> tuple[str, ...]:
    """Lines of at most WIDTH characters; nothing of the text is lost."""
    lines: list[str] = []
    for line in text.split("\n"):
        if len(line) <= WIDTH:
            lines.append(line)
            continue
        for start in range(0, len(line), _PIECE):
            lines += textwrap.wrap(
                line[start : start + _PIECE],
                WIDTH,
                replace_whitespace=False,
                drop_whitespace=False,
            )
    return tuple(lines)


def one_line(text: str, limit: int = 200) -> str:
    """A title or snippet without line breaks and marks, not longer than `limit` characters."""
    text = " ".join(clean(text).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _first_heading(found: PageText) -> str:
    heading = re.search(r"(?m)^# (.+)$", found.text)
    return heading[1] if heading else ""


def _place(url: str) -> str:
    return local_path(url) if url.startswith(LOCAL) else domain_of(url)


def _fewer_blank_lines(text: str) -> str:
    return re.sub(r"\n[ \t]*\n(?:[ \t]*\n)+", "\n\n", text)
