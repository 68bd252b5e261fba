"""Citations in an answer become the pages that they mean."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.browser.citations import Citation, citations

from .conftest import Session, Talk

PAGES = {
    "0": {
        "url": "",
        "title": "quokkas",
        "results": [
            {"line": 4, "url": "https://a.example/", "title": "A"},
            {"line": 6, "url": "https://b.example/", "title": "B"},
        ],
    },
    "3": {"url": "https://c.example/", "title": "C"},
}


@pytest.mark.parametrize(
    ("mark", "url"),
    [
        ("【3†L1-L4】", "https://c.example/"),
        ("【3†L1】", "https://c.example/"),
        ("【3†L1-4】", "https://c.example/"),
        ("【3】", "https://c.example/"),
        ("【3†L1-L4†c.example】", "https://c.example/"),
        ("【3†source】", "https://c.example/"),
        ("【0†L4】", "https://a.example/"),
        ("【0†L5-L6】", "https://a.example/"),
        ("【0†L7】", "https://b.example/"),
    ],
)
def test_a_citation_means_the_page_at_its_cursor(mark: str, url: str) -> None:
    text = f"Quokkas smile{mark}."
    (found,) = citations(text, PAGES)
    assert found.url == url
    assert text[found.start : found.end] == mark


@pytest.mark.parametrize("text", ["【9†L1】", "【0†L2】", "【3†L1", "[3†L1]", "【x†L1】", ""])
def test_what_cites_nothing_known_is_left_out(text: str) -> None:
    assert citations(text, PAGES) == []


def test_citations_come_in_order() -> None:
    found = citations("a【3†L1】b【9†L1】【0†L4】", PAGES)
    assert found == [
        Citation(1, 7, "https://c.example/", "C"),
        Citation(14, 20, "https://a.example/", "A"),
    ]


@given(st.text("0123456789【】†L- x"))
def test_any_text_can_be_searched_for_citations(text: str) -> None:
    for found in citations(text, PAGES):
        assert text[found.start] == "【"
        assert text[found.end - 1] == "】"


def test_what_the_tools_report_is_what_citations_are_read_with(
    in_folder: Callable[[Talk], None],
) -> None:
    async def talk(session: Session) -> None:
        found = await session.search("peat")
        page = await session.open(0)
        match = await session.find("acid")
        pages = {
            **found.details["pages"],
            **page.details["pages"],
            **match.details["pages"],
        }
        for cursor, line in ((0, 4), (1, 3), (2, 1)):
            (citation,) = citations(f"【{cursor}†L{line}】", pages)
            assert (citation.url, citation.title) == ("local://more/soil.md", "Soil")

    in_folder(talk)
