"""HTML as the text that gpt-oss reads: headings, lists, tables and code, with numbered links."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from ossia.tools.browser.links import LinkNumbers, clean

_SKIPPED = frozenset(
    ("script", "style", "template", "svg", "math", "iframe", "object", "canvas", "select")
)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "caption",
        "center",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "fieldset",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "hgroup",
        "html",
        "legend",
        "main",
        "nav",
        "p",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
    ]
)
_SPACED = frozenset(["blockquote", "dl", "figure", "p", "section", "table", "ul", "ol", "pre"])
_HEADINGS = {f"h{level}": "#" * level for level in range(1, 7)}
_CHUNK = 1 << 16  # characters


def html_to_text(html: str, links: LinkNumbers) -> tuple[str, str]:
    """The text of a page and its title, "" if it has none. `links` learns the page's links.

    Malformed HTML gives what can be read of it, in time that grows with its length.
    """
    writer = _Writer(links)
    for start in range(0, len(html), _CHUNK):
        writer.feed(html[start : start + _CHUNK])
    # `close` would read what is left after an unfinished tag again and again.
    writer.feed("</html>")
    return writer.text(), writer.title()


class _Writer(HTMLParser):
    """Lines as they come: inline text gathers in `_inline` until a block begins or ends.

    Each tag costs the same, however many came before: a page is not to be trusted.
    """

    def __init__(self, links: LinkNumbers) -> None:
        super().__init__(convert_charrefs=True)
        self._links = links
        self._lines: list[str] = []
        self._inline: list[str] = []
        self._prefix = ""  # of the line to come: a heading's or a list item's
        self._lists: list[int | None] = []  # of open lists: the next number, None for bullets
        self._skipping: list[str] = []
        self._title: list[str] | None = None
        self._in_title = False
        self._in_pre = 0
        self._cells = 0  # of the table's row so far
        self._link: tuple[str, int] | None = None  # where it leads, where in `_inline` it begins
        self._images = 0

    def text(self) -> str:
        """All of it."""
        self._end_link()
        self._end_line()
        return "\n".join(self._lines).strip("\n")

    def title(self) -> str:
        """The first title, "" if there is none."""
        return " ".join(clean("".join(self._title or ())).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.append(tag)
        elif tag in _SKIPPED:
            self._skipping.append(tag)
        elif tag == "title":
            if self._title is None:
                self._title = []
                self._in_title = True
            else:
                self._skipping.append(tag)
        elif tag == "a":
            self._end_link()
            reference = dict(attrs).get("href")
            if reference:
                self._link = (reference, len(self._inline))
        elif tag == "img":
            self._image(dict(attrs))
        else:
            self._open(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in _SKIPPED:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self._skipping:
            if tag == self._skipping[-1]:
                self._skipping.pop()
        elif tag == "title":
            self._in_title = False
        elif tag == "a":
            self._end_link()
        else:
            self._close(tag)

    def handle_data(self, data: str) -> None:
        if self._skipping:
            return
        if self._in_title and self._title is not None:
            self._title.append(data)
        elif self._in_pre and self._link is None:
            first, *more = clean(data).split("\n")
            self._add(first)
            for line in more:
                self._end_line()
                self._add(line)
        else:
            self._add(clean(data))

    def _open(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._blank_line()
            if self._is_fresh() and not self._prefix.endswith("# "):
                self._prefix += f"{_HEADINGS[tag]} "
        elif tag in ("ul", "ol"):
            if not self._lists:
                self._blank_line()
            self._lists.append(1 if tag == "ol" else None)
        elif tag == "li":
            self._item()
        elif tag == "pre":
            self._blank_line()
            self._in_pre += 1
        elif tag == "br":
            self._end_line()
        elif tag == "hr":
            self._blank_line()
            self._add("* * *")
            self._blank_line()
        elif tag == "tr":
            self._end_line()
            self._cells = 0
        elif tag in ("td", "th"):
            self._add(" | " if self._cells else " ")
            self._cells += 1
        elif tag in ("code", "kbd", "samp") and not self._in_pre:
            self._add("`")
        elif tag in ("sup", "sub"):
            self._add("^{" if tag == "sup" else "_{")
        elif tag in _BLOCKS:
            self._block(tag)

    def _close(self, tag: str) -> None:
        if tag in _HEADINGS:
            self._blank_line()
        elif tag in ("ul", "ol"):
            self._end_line()
            if self._lists:
                self._lists.pop()
            if not self._lists:
                self._blank_line()
        elif tag in ("li", "tr"):
            self._end_line()
        elif tag == "pre" and self._in_pre:
            self._in_pre -= 1
            self._end_line(verbatim=True)
            self._blank_line()
        elif tag in ("code", "kbd", "samp") and not self._in_pre:
            self._add("`")
        elif tag in ("sup", "sub"):
            self._add("}")
        elif tag in _BLOCKS:
            self._block(tag)

    def _block(self, tag: str) -> None:
        if self._cells and tag in ("p", "div"):
            self._add(" ")  # a cell stays on its row's line
        elif self._prefix and self._is_fresh():
            pass  # the item's mark is waiting for its text
        elif tag in _SPACED and not self._lists:
            self._blank_line()
        else:
            self._end_line()
        if tag == "table":
            self._cells = 0

    def _item(self) -> None:
        self._end_line()
        number = self._lists[-1] if self._lists else None
        mark = "*" if number is None else f"{number}."
        if number is not None:
            self._lists[-1] = number + 1
        self._prefix = f"{'  ' * min(max(len(self._lists), 1), 20)}{mark} "

    def _image(self, attributes: dict[str, str | None]) -> None:
        words = " ".join(clean(attributes.get("alt") or attributes.get("title") or "").split())
        self._add(f"[Image {self._images}{words and f': {words}'}]")
        self._images += 1

    def _end_link(self) -> None:
        if self._link is None:
            return
        reference, start = self._link
        text = "".join(self._inline[start:])
        del self._inline[start:]
        self._link = None
        around = (text[:1], text[-1:])
        self._add(" " if around[0].isspace() else "")
        self._add(self._links.mark(text, reference))
        self._add(" " if around[1].isspace() else "")

    def _add(self, text: str) -> None:
        """More of the line; of blanks that follow each other only one, but for code."""
        if text.isspace() and not self._in_pre:
            if not self._inline or self._inline[-1] == " ":
                return
            text = " "
        if text:
            self._inline.append(text)

    def _is_fresh(self) -> bool:
        return self._inline in ([], [" "])

    def _end_line(self, *, verbatim: bool = False) -> None:
        """Write what has gathered. The words of a link stay together, whatever it contains."""
        if self._link is not None:
            self._add(" ")
            return
        text = "".join(self._inline)
        self._inline = []
        if self._in_pre or verbatim:
            if text or not verbatim:
                self._lines.append(f"    {text}".rstrip())
            return
        text = _BLANKS.sub(" ", text).strip()
        if text:
            self._lines.append(self._prefix + text)
            self._prefix = ""

    def _blank_line(self) -> None:
        self._end_line()
        if not self._in_pre and self._lines and self._lines[-1]:
            self._lines.append("")


_BLANKS = re.compile(r"\s+")
