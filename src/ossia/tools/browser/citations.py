"""Citations in an answer: `【3†L1-L4】` says that lines 1 to 4 at cursor 3 tell so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_CITATION = re.compile(r"【(\d{1,9})(?:†L(\d{1,9})(?:-L?\d{1,9})?)?(?:†[^†】]{0,200})?】")


@dataclass(frozen=True, slots=True)
class Citation:
    """One citation whose page is known."""

    start: int  # of its text, with the brackets
    end: int
    url: str
    title: str


def citations(text: str, pages: Mapping[str, Mapping[str, Any]]) -> list[Citation]:
    """The citations in a text, in order.

    `pages` joins what the calls of the conversation gave as `ToolOutput.details["pages"]`. What
    cites an unknown cursor is left out. A line of search results cites the page that it is about.
    """
    found = []
    for match in _CITATION.finditer(text):
        page = pages.get(match[1].lstrip("0") or "0")
        source = page and _source(page, int(match[2] or 0))
        if source and source.get("url"):
            url, title = str(source["url"]), str(source.get("title") or source["url"])
            found.append(Citation(match.start(), match.end(), url, title))
    return found


def _source(page: Mapping[str, Any], line: int) -> Mapping[str, Any] | None:
    if page.get("url"):
        return page
    before = [result for result in page.get("results", ()) if result["line"] <= line]
    return before[-1] if before else None
