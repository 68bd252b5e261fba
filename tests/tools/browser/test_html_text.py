"""HTML becomes the text that a person would read, with its links numbered."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.tools.browser.html_text import html_to_text
from ossia.tools.browser.links import LinkNumbers, resolved

URL = "https://site.example/docs/page.html"


def text_of(html: str) -> str:
    return html_to_text(html, LinkNumbers(URL))[0]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One\n two</p><p>three", "One two\n\nthree"),
        ("<h1>Top</h1>Text<h3>Below</h3>", "# Top\n\nText\n\n### Below"),
        ("a<br>b<hr>c", "a\nb\n\n* * *\n\nc"),
        ("<ul><li>a<li>b<ul><li>c</ul></ul>d", "  * a\n  * b\n    * c\n\nd"),
        ("<ol><li><p>a</p></li><li>b</li></ol>", "  1. a\n  2. b"),
        ("<pre>def f():\n    return 1</pre>x", "    def f():\n        return 1\n\nx"),
        ("use <code>x = 1</code> or E=mc<sup>2</sup>", "use `x = 1` or E=mc^{2}"),
        (
            "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td><p>2</p></td></tr></table>",
            "a | b\n1 | 2",
        ),
        ("a <img src=x alt='a cat'> b <img>", "a [Image 0: a cat] b [Image 1]"),
        ("<style>p{}</style><script>x<p>y</p></script>z<svg><a><svg></svg>q</svg>", "z"),
        ("5 &lt; 6 &amp; 【1†x】", "5 < 6 & 〖1‡x〗"),
        ("no tags at all", "no tags at all"),
        ("", ""),
        ("an <unfinished", "an"),
        ("a <!-- hidden --> b", "a b"),
    ],
)
def test_structure_becomes_simple_text(html: str, text: str) -> None:
    assert text_of(html) == text


def test_the_title_is_found_once() -> None:
    html = (
        "<title>A\n title &amp; 【more】</title><svg><title>no</title></svg><title>nor this</title>"
    )
    assert html_to_text(html, LinkNumbers(URL)) == ("", "A title & 〖more〗")


def test_links_are_numbered_by_what_they_lead_to() -> None:
    links = LinkNumbers(URL)
    html = (
        "<a href='other.html'>Other</a> <a href=/top?x=1>Top\n<b>page</b></a> "
        "<a href='https://else.example/'>Else</a> <a href='other.html#part'>again</a>"
    )
    assert html_to_text(html, links)[0] == (
        "【0†Other】 【1†Top page】 【2†Else†else.example】 【0†again】"
    )
    assert links.urls == (
        "https://site.example/docs/other.html",
        "https://site.example/top?x=1",
        "https://else.example/",
    )


@pytest.mark.parametrize(
    "html",
    [
        "<a href='#part'>words</a>",
        "<a href='mailto:a@b.example'>words</a>",
        "<a href='javascript:x()'>words</a>",
        "<a href='local://secret.md'>words</a>",
        "<a href='http://['>words</a>",
        "<a>words</a>",
        "words<a href=x></a>",
    ],
)
def test_links_to_no_page_are_just_words(html: str) -> None:
    assert text_of(html) == "words"


def test_a_link_around_blocks_stays_in_one_line() -> None:
    html = "before <a href=x><h2>Title</h2><p>and text</p></a> after"
    assert text_of(html).replace("\n", "") == "before 【0†Title and text】 after"


@pytest.mark.parametrize(
    ("page", "reference", "url"),
    [
        ("local://a/b.md", "c.md", "local://a/c.md"),
        ("local://a/b.md", "../c%20d.md?x#y", "local://c%20d.md"),
        ("local://a/b.md", "/c.md", "local://c.md"),
        ("local://a/b.md", "../../c.md", None),
        ("local://a/b.md", "//host/c.md", None),
        ("local://a/b.md", "https://host/c", "https://host/c"),
        ("local://a/b.md", "local://c.md", "local://c.md"),
        ("local://a/b.md", "", None),
        ("https://h/a", "//other/c", "https://other/c"),
        ("https://h/a", f"/{'x' * 3000}", None),
    ],
)
def test_references_are_resolved_where_they_stand(
    page: str, reference: str, url: str | None
) -> None:
    assert resolved(page, reference) == url


TAGS = st.sampled_from(["a", "b", "p", "li", "ul", "ol", "pre", "td", "h1", "br", "svg", "title"])
MARKUP = st.lists(
    TAGS.map("<{}>".format)
    | TAGS.map("</{}>".format)
    | st.sampled_from(
        ["<a href='/x'>", "<a href='https://b.example/'>", "<!--", "-->", "&amp;", "<"]
    )
    | st.text(max_size=8)
).map("".join)


@given(MARKUP)
def test_any_markup_is_read(html: str) -> None:
    links = LinkNumbers(URL)
    text, _ = html_to_text(html, links)
    for number in range(len(links.urls)):
        assert f"【{number}†" in text


@pytest.mark.parametrize(
    "part",
    [
        "<",
        "<a",
        "<a ",
        "<!--",
        "</",
        "<a b='",
        "<p/",
        "<?",
        "&#",
        "<a href=x>",
        "<ul><li>",
        "<a href=x><p> ",
        "<title>a",
        "<h1>",
        " <b>",
    ],
)
def test_malicious_markup_takes_no_longer_than_any(part: str) -> None:
    many = part * (100_000 // len(part))
    started = time.process_time()
    text_of(many)
    text_of(f"<li><a href=y>{many}")
    assert time.process_time() - started < 10  # what grows with the square takes minutes
