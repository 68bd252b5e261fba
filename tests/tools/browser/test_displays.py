"""What the model sees, and what the API is told of it."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from ossia.tools.tool import ToolError

from .conftest import Session, Talk

InFolder = Callable[[Talk], None]


def lines_of(text: str) -> dict[int, str]:
    """The numbered lines of a display."""
    return {int(number): line for number, line in re.findall(r"(?m)^L(\d+): (.*)$", text)}


def test_search_results_are_a_page_of_links(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        found = await session.search("acid soil")
        assert found.text.split("\n")[:8] == [
            "[0] acid soil",
            "**viewing lines [0 - 6] of 6**",
            "",
            "L0: ",
            "L1: URL: ",
            "L2: # Search Results",
            "L3: ",
            "L4:   * 【0†Soil†local】 Peat is acid. Back to the guide.",
        ]
        second = "".join(lines_of(found.text)[line] for line in (5, 6))
        assert second == (
            "  * 【1†Growing tomatoes†local】 Tomatoes need sun. See soil and a shop. "
            "``` [not a link](x.md) ```"
        )
        assert found.details["action"] == {
            "type": "search",
            "query": "acid soil",
            "sources": [
                {"type": "url", "url": "local://more/soil.md"},
                {"type": "url", "url": "local://guide.md"},
            ],
        }
        assert found.details["pages"]["0"]["results"] == [
            {"line": 4, "url": "local://more/soil.md", "title": "Soil"},
            {"line": 5, "url": "local://guide.md", "title": "Growing tomatoes"},
        ]

    in_folder(talk)


def test_a_result_opens_as_a_page_of_numbered_lines(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.search("peat")
        page = await session.open(0)
        assert page.text.split("\n") == [
            "[1] Soil (local://more/soil.md)",
            "**viewing lines [0 - 5] of 5**",
            "",
            "L0: ",
            "L1: URL: local://more/soil.md",
            "L2: # Soil",
            "L3: ",
            "L4: Peat is acid. Back to 【0†the guide】.",
            "L5: ",
        ]
        assert page.details == {
            "action": {"type": "open_page", "url": "local://more/soil.md"},
            "pages": {"1": {"url": "local://more/soil.md", "title": "Soil"}},
        }

    in_folder(talk)


def test_a_long_page_is_shown_in_views_that_meet(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        page = await session.open("local://story.html")
        shown = lines_of(page.text)
        total = int(re.search(r"of (\d+)\*\*", page.text)[1])  # type: ignore[index]
        assert 50 < len(shown) < total
        assert len(page.text) < 5000
        seen = dict(shown)
        while len(seen) <= total:
            shown = lines_of((await session.open(loc=len(seen))).text)
            assert min(shown) == len(seen)
            seen |= shown
        assert "The butler did it." in seen.values()

    in_folder(talk)


def test_the_model_may_ask_for_a_number_of_lines(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        page = await session.open("local://story.html", loc=10, num_lines=3)
        assert list(lines_of(page.text)) == [10, 11, 12]
        assert "**viewing lines [10 - 12] of" in page.text
        many = await session.open(num_lines=1_000_000)
        assert len(many.text) < 20_000

    in_folder(talk)


def test_each_display_has_a_cursor_of_its_own(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://story.html")
        await session.open("local://guide.md")
        assert (await session.open(cursor=0, loc=20)).text.startswith("[2] A long story")
        assert (await session.open(loc=40)).text.startswith("[3] A long story")
        assert (await session.open(0, cursor=1)).text.startswith("[4] Soil")

    in_folder(talk)


def test_find_shows_matches_with_the_lines_after_them(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://story.html")
        found = await session.find("paragraph 37")
        matches = re.findall(r"# 【(\d+)†match at L(\d+)】\nL\d+: (.*)", found.text)
        assert [(number, text) for number, _, text in matches[:1]] == [
            ("0", "Paragraph 37 of a long story.")
        ]
        assert len(matches) == 6  # 37, and 370 to 379, two of which are shown at a time
        assert found.text.startswith(
            "[1] Find results for text: `paragraph 37` in `A long story` "
            "(local://story.html/find?pattern=paragraph 37)\n"
        )
        assert found.details == {
            "action": {
                "type": "find_in_page",
                "pattern": "paragraph 37",
                "url": "local://story.html",
            },
            "pages": {"1": {"url": "local://story.html", "title": "A long story"}},
        }
        there = await session.open(1)
        line = int(matches[1][1])
        assert min(lines_of(there.text)) == line - 4
        assert "[2] A long story (local://story.html)" in there.text

    in_folder(talk)


def test_find_reads_across_line_breaks_and_links(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://guide.md")
        assert "match at L4" in (await session.find("SEE SOIL   and a Shop.")).text

    in_folder(talk)


def test_find_without_matches_says_so(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://guide.md")
        assert "No `find` results for pattern: `kiwi`" in (await session.find("kiwi")).text

    in_folder(talk)


def test_the_source_of_a_page_can_be_seen(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://story.html")
        source = await session.open(view_source=True)
        assert "(view-source:local://story.html)" in source.text
        assert "<h1>Story</h1>" in source.text
        assert source.details["action"]["url"] == "local://story.html"
        again = await session.open(view_source=True)
        assert "(view-source:local://story.html)" in again.text

    in_folder(talk)


def test_conversations_do_not_see_each_others_pages(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        other = Session(session.tools, "other")
        await session.open("local://guide.md")
        with pytest.raises(ToolError, match="No page is open yet"):
            await other.open(loc=0)
        assert (await other.open("local://notes.txt")).text.startswith("[0] ")

    in_folder(talk)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"cursor": 7}, "There is no page with the cursor 7; the cursors are 0 to 0."),
        ({"cursor": -2}, "no page with the cursor -2"),
        ({"id": 99}, "There is no link 99 on this page; its links are 0 to 1."),
        ({"id": "99"}, "There is no link 99"),
        ({"loc": 1000}, "There is no line 1000; the last line of this page is"),
        ({"id": 0.5}, "`id` must be a whole number"),
        ({"cursor": "x"}, "`cursor` must be a whole number"),
        ({"id": True}, "`id` must be a whole number"),
        ({"id": "local://no.md"}, r"There is no document local://no\.md"),
        ({"id": ""}, "Only the documents of a folder"),
    ],
)
def test_mistakes_of_the_model_are_told_in_a_sentence(
    in_folder: InFolder, arguments: dict[str, object], sentence: str
) -> None:
    async def talk(session: Session) -> None:
        await session.open("local://guide.md")
        with pytest.raises(ToolError, match=sentence):
            await session.call("open", **arguments)
        assert (await session.open(loc=0)).text.startswith("[1] ")  # it took no cursor

    in_folder(talk)


def test_empty_words_are_refused(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        with pytest.raises(ToolError, match="query is empty"):
            await session.search(" ")
        with pytest.raises(ToolError, match="`query` must be a string"):
            await session.call("search")
        with pytest.raises(ToolError, match="No page is open yet"):
            await session.find("x")
        await session.search("tomatoes")
        with pytest.raises(ToolError, match="pattern is empty"):
            await session.find("")
        with pytest.raises(ToolError, match="has no source"):
            await session.open(view_source=True)
        await session.find("tomato")
        with pytest.raises(ToolError, match="the cursor of the page itself"):
            await session.find("tomato")

    in_folder(talk)
