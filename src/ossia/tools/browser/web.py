"""Searching the web with a service of the operator's, and opening what it finds.

The service speaks SearXNG's JSON API (https://docs.searxng.org/dev/search_api.html), which its
settings must allow: `search: formats: [html, json]`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode, urlsplit

from ossia import __version__
from ossia.errors import ConfigError
from ossia.tools.addresses import AddressRules, safe_client
from ossia.tools.browser.backend import PageText, SearchHit
from ossia.tools.fetching import FetchError, fetch


class WebSearch:
    """A `SearchBackend` over HTTP."""

    def __init__(self, search_url: str, rules: AddressRules) -> None:
        """`search_url`: the service's, without `/search`. `rules`: for the pages it finds.

        Raises:
            ConfigError: `search_url` is not a URL.
        """
        self._search_url = search_url.rstrip("/").removesuffix("/search")
        # The operator's own service may be anywhere; no page on its host is opened because of that.
        headers = {"User-Agent": f"ossia/{__version__}"}
        self._service = safe_client(AddressRules([_host(search_url)]), headers=headers)
        self._pages = safe_client(rules, headers=headers)

    async def search(self, query: str, topn: int) -> Sequence[SearchHit]:
        """Its first results; those without a URL are left out."""
        url = f"{self._search_url}/search?{urlencode({'q': query, 'format': 'json'})}"
        try:
            answer = await fetch(self._service, url)
        except FetchError as error:
            # Where the service runs is no business of the model's.
            why = str(error).replace(url, "it").replace(self._search_url, "it")
            raise FetchError(f"The search service failed: {why}") from None
        try:
            results = json.loads(answer.body)["results"]
            hits = [_hit(result) for result in results if result.get("url")]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise FetchError(
                "The search service did not answer with JSON in the way of SearXNG."
            ) from None
        return hits[:topn]

    async def open(self, url: str) -> PageText:
        """The page at an https URL, or at a host that the rules allow."""
        page = await fetch(self._pages, url)
        return PageText(page.url, None, page.content_type, page.body)

    async def close(self) -> None:
        """End all connections."""
        await self._service.aclose()
        await self._pages.aclose()


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
    except (ValueError, KeyError):
        parts, port = urlsplit(""), 0
    if not parts.hostname or "@" in parts.netloc or parts.query:
        raise ConfigError(
            f"--browser-search-url {url!r} must be the URL of a SearXNG service, like "
            "http://127.0.0.1:8888."
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{port}"


def _hit(result: dict[str, Any]) -> SearchHit:
    return SearchHit(*(_text(result.get(key)) for key in ("url", "title", "content")))


def _text(value: object) -> str:
    # JSON can spell half of a surrogate pair, which no encoding can.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
