"""Pages are kept while they are used and while there is room."""

from __future__ import annotations

import pytest

from ossia.tools.browser.content import Page
from ossia.tools.browser.opened import Conversations, OpenedPages
from ossia.tools.tool import ToolError


def page(url: str, characters: int = 10) -> Page:
    return Page(url, url, ("x" * characters,))


def test_cursors_count_on_when_the_oldest_pages_go() -> None:
    opened = OpenedPages(max_pages=2)
    assert [opened.add(page(url)) for url in "abc"] == [0, 1, 2]
    assert opened.at(-1).url == "c"
    assert opened.with_url("a") is None
    with pytest.raises(ToolError, match="the cursors are 1 to 2"):
        opened.at(0)


def test_a_conversation_has_room_for_so_many_bytes() -> None:
    opened = OpenedPages(max_bytes=2500)
    for url in "abc":
        opened.add(page(url, 1000))
    assert opened.with_url("a") is None
    assert opened.with_url("b") is not None


def test_a_page_that_is_scrolled_through_counts_once() -> None:
    opened = OpenedPages(max_bytes=2500)
    long = page("a", 2000)
    for _ in range(10):
        opened.add(long)
    assert opened.at(0) is long


def test_a_page_larger_than_all_the_room_can_still_be_read() -> None:
    opened = OpenedPages(max_bytes=10)
    assert opened.at(opened.add(page("a", 1000))).url == "a"


def test_idle_conversations_are_forgotten() -> None:
    now = 0.0
    conversations = Conversations(max_idle=1800, clock=lambda: now)
    conversations.of("old").add(page("a"))
    now = 1000.0
    conversations.of("used").add(page("b"))
    now = 2000.0
    assert conversations.of("used").at(0).url == "b"
    assert len(conversations) == 1
    with pytest.raises(ToolError, match="No page is open"):
        conversations.of("old").at(0)


def test_conversations_used_last_are_kept_where_room_is_short() -> None:
    conversations = Conversations(max_bytes=2500)
    for name in "abc":
        conversations.of(name).add(page("x", 1000))
    conversations.of("c")
    assert len(conversations) == 2
