"""Links of a page: what they lead to, and how the model sees them: `【3†text†domain】`."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit

LOCAL = "local://"  # before the quoted path of a document in the operator's folder

# The marks of links and citations belong to the browser; a page must not bring its own.
_CLEANED: dict[int, str | None] = {
    **{ord(mark): other for mark, other in zip("【】†", "〖〗‡", strict=True)},
    **dict.fromkeys(map(ord, "\u200b\r\0"), None),
    **dict.fromkeys(map(ord, "\v\f\x85\u2028\u2029"), "\n"),
}
_MAX_URL = 2000  # characters


class LinkNumbers:
    """Numbers the links of one page in the order of their first sight."""

    def __init__(self, page_url: str) -> None:
        self._page_url = page_url
        self._domain = domain_of(page_url)
        self._numbers: dict[str, int] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        """What each number leads to."""
        return tuple(self._numbers)

    def mark(self, text: str, reference: str) -> str:
        """A link as the model sees it; just its text, where it leads to no other page."""
        text = " ".join(clean(text).split())
        url = resolved(self._page_url, reference)
        if url is None or not text:
            return text
        number = self._numbers.setdefault(url, len(self._numbers))
        domain = domain_of(url)
        return f"【{number}†{text}】" if domain == self._domain else f"【{number}†{text}†{domain}】"


def clean(text: str) -> str:
    """Text of a page without the browser's own marks, its lines ended by newlines."""
    return text.translate(_CLEANED)


def strip_links(text: str) -> str:
    """Text with each link replaced by its words, also where a line ends within a link."""
    text = re.sub(r"【\d+†([^†】]*)(?:†[^】]*)?】", r"\1", text)
    return re.sub(r"【\d+†", "", re.sub(r"(?:†[^†】\s]+)?】", "", text))


def local_url(path: str) -> str:
    """The URL of a document, from its path in the folder, with slashes."""
    return LOCAL + quote(path)


def local_path(url: str) -> str:
    """The reverse."""
    return unquote(url.removeprefix(LOCAL))


def domain_of(url: str) -> str:
    """What is shown as the place of a URL."""
    if url.startswith(LOCAL):
        return "local"
    try:
        return clean(urlsplit(url).netloc)
    except ValueError:
        return ""


def resolved(page_url: str, reference: str) -> str | None:
    """The page that a reference leads to from another; None if to none, or within its own."""
    reference = reference.strip()
    try:
        target = urldefrag(reference).url
        scheme = urlsplit(target).scheme.lower()
        if page_url.startswith(LOCAL) and not scheme:
            found = _resolved_in_folder(page_url, target)
        else:
            found = urljoin(page_url, target) if target else None
        if found is None or len(found) > _MAX_URL:
            return None
        parts = urlsplit(found)
    except ValueError:
        return None
    if parts.scheme in ("http", "https"):
        return found if parts.netloc else None
    # Pages of the web do not lead into the folder; search results do.
    from_web = bool(page_url) and not page_url.startswith(LOCAL)
    return found if found.startswith(LOCAL) and not from_web else None


def _resolved_in_folder(page_url: str, target: str) -> str | None:
    path = unquote(urlsplit(target).path)
    if not path or target.startswith("//"):
        return None
    if not path.startswith("/"):
        path = posixpath.join(posixpath.dirname(local_path(page_url)), path)
    path = posixpath.normpath(path).lstrip("/")
    return None if path in ("", ".") or path.startswith("..") else local_url(path)
