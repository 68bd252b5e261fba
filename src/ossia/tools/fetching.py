"""Fetching one page of text: how large it may be, how long it may take, what it may be."""

from __future__ import annotations

import asyncio
import codecs
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ossia.tools.addresses import MAX_REDIRECTS
from ossia.tools.tool import ToolError

if TYPE_CHECKING:
    import httpx

MAX_BYTES = 2_000_000
TIMEOUT = 15.0  # seconds

# One of these at most: 64 KB of nested gzip, or of brotli, unpack into gigabytes.
_ENCODINGS = frozenset({"", "identity", "gzip", "deflate"})
_HEADERS = {"Accept-Encoding": "gzip, deflate", "Accept": "text/html, text/*, application/json"}
_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/javascript"})
_META_CHARSET = re.compile(rb"""<meta[^>]{1,200}charset=["']?\s*([\w-]{1,40})""", re.IGNORECASE)
# Python has codecs that are not charsets, and some of them take long.
_CHARSETS = re.compile(r"utf|ascii|iso8859|iso2022|cp\d|koi8|shift|euc|gb|big5|mac|tis|hz|johab")


class FetchError(ToolError):
    """The page cannot be had; one sentence says why."""


@dataclass(frozen=True, slots=True)
class Page:
    """What a URL led to."""

    url: str  # after redirects
    status: int  # below 300
    content_type: str  # without parameters, in lower case
    body: str


async def fetch(
    client: httpx.AsyncClient, url: str, *, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT
) -> Page:
    """Get a page of text with a `safe_client`, which checks each redirect as well.

    `max_bytes` counts what was unpacked; `timeout` is for all of it, in seconds.

    Raises:
        FetchError: it is not text, too large, too slow, or there is none.
        ForbiddenAddress: it, or what it redirects to, must not be contacted.
    """
    import httpx

    try:
        async with asyncio.timeout(timeout):
            # The client's own limit of each step must not end it earlier.
            request = client.build_request("GET", url, headers=_HEADERS, timeout=timeout)
            return await _follow(client, request, max_bytes)
    except (TimeoutError, httpx.TimeoutException):
        raise FetchError(f"{_short(url)} did not answer within {timeout:g} s.") from None
    except httpx.DecodingError:
        raise FetchError(f"{_short(url)} sends a body that cannot be unpacked.") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = str(error) or type(error).__name__
        raise FetchError(f"{_short(url)} cannot be fetched: {why}.") from None


async def _follow(client: httpx.AsyncClient, request: httpx.Request, max_bytes: int) -> Page:
    import httpx

    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        try:
            if response.next_request is None:
                return await _read(response, max_bytes)
            request = response.next_request
        finally:
            await response.aclose()
    raise httpx.TooManyRedirects(f"it redirects more than {MAX_REDIRECTS} times")


async def _read(response: httpx.Response, max_bytes: int) -> Page:
    url = str(response.url)
    if not response.is_success:
        raise FetchError(f"{_short(url)} answers with status {response.status_code}.")
    content_type, charset = _content_type(response)
    if content_type == "application/pdf":
        raise FetchError(
            f"{_short(url)} is a PDF, which this browser cannot read; look for a page of text."
        )
    if not _is_text(content_type):
        raise FetchError(f"{_short(url)} is not a page of text but {content_type[:80]}.")
    if response.headers.get("content-encoding", "").strip().lower() not in _ENCODINGS:
        raise FetchError(f"{_short(url)} is packed in a way that was not asked for.")
    body = bytearray()
    async for part in response.aiter_bytes():
        body += part
        if len(body) > max_bytes:
            raise FetchError(f"{_short(url)} is larger than {max_bytes / 1e6:g} MB.")
    return Page(url, response.status_code, content_type, _decode(bytes(body), charset))


def _content_type(response: httpx.Response) -> tuple[str, str | None]:
    header = response.headers.get("content-type", "")
    kind = header.split(";")[0].strip().lower()
    return kind or "text/plain", response.charset_encoding


def _is_text(content_type: str) -> bool:
    if content_type.startswith("text/") or content_type in _TEXT_TYPES:
        return True
    return content_type.startswith("application/") and content_type.endswith(("+xml", "+json"))


def _decode(body: bytes, charset: str | None) -> str:
    if charset is None and (found := _META_CHARSET.search(body[:2048])):
        charset = found[1].decode("ascii", "replace")
    if body.startswith(codecs.BOM_UTF8):
        charset = "utf-8-sig"
    try:
        name = codecs.lookup(charset or "utf-8").name
    except (LookupError, ValueError):
        name = "utf-8"
    if name in ("ascii", "iso8859-1"):
        name = "cp1252"  # https://encoding.spec.whatwg.org/#names-and-labels
    return body.decode(name if _CHARSETS.match(name) else "utf-8", "replace")


def _short(url: str) -> str:
    return url if len(url) <= 200 else f"{url[:200]}..."
