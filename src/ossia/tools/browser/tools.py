"""The browser's functions as tools, with the parameters that gpt-oss was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossia.errors import ConfigError
from ossia.tools.addresses import AddressRules
from ossia.tools.browser.backend import SearchBackend
from ossia.tools.browser.browser import Browser, Shown
from ossia.tools.browser.content import VIEW_SOURCE, Page
from ossia.tools.browser.folder import FolderSearch
from ossia.tools.browser.web import WebSearch
from ossia.tools.options import ToolOptions
from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

_SEARCH_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "query": {"type": "string"},
        "topn": {"type": "number", "default": 10},
        "source": {"type": "string"},
    },
    "required": ["query"],
}
_OPEN_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "id": {"type": ["number", "string"], "default": -1},
        "cursor": {"type": "number", "default": -1},
        "loc": {"type": "number", "default": -1},
        "num_lines": {"type": "number", "default": -1},
        "view_source": {"type": "boolean", "default": False},
        "source": {"type": "string"},
    },
}
_FIND_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "pattern": {"type": "string"},
        "cursor": {"type": "number", "default": -1},
    },
    "required": ["pattern"],
}


def browser_tools(options: ToolOptions) -> list[Tool]:
    """`browser.search`, `browser.open` and `browser.find` over what the operator has configured.

    Raises:
        ConfigError: nothing is configured to search in, or it is not there.
    """
    browser = Browser(_backend(options))
    return [SearchTool(browser), OpenTool(browser), FindTool(browser)]


def _backend(options: ToolOptions) -> SearchBackend:
    folder, search_url = options.browser_folder, options.browser_search_url
    if folder and search_url:
        raise ConfigError("Choose one of --browser-folder and --browser-search-url, not both.")
    if folder:
        return FolderSearch(folder)
    if search_url:
        return WebSearch(search_url, AddressRules(options.allowed_hosts))
    raise ConfigError(
        "The browser tool needs something to search in: add --browser-folder DIR or "
        "--browser-search-url URL."
    )


class _BrowserTool(Tool):
    builtin = "browser"

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    async def close(self) -> None:
        await self._browser.close()


class SearchTool(_BrowserTool):
    """Finds pages."""

    name = "browser.search"
    description = "Searches for pages and shows the best of them as numbered links."
    parameters = _SEARCH_PARAMETERS

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Show results."""
        query = _string(arguments, "query")
        topn = _whole(arguments, "topn", 10)
        shown = await self._browser.search(context.session, query, topn)
        sources = [{"type": "url", "url": spot.url} for spot in shown.page.spots]
        return _output(shown, {"type": "search", "query": query, "sources": sources})


class OpenTool(_BrowserTool):
    """Shows pages, and other lines of them."""

    name = "browser.open"
    description = "Opens a link by its number or a URL, or shows the open page from line `loc` on."
    parameters = _OPEN_PARAMETERS

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Show a page."""
        link = arguments.get("id")
        cursor = _whole(arguments, "cursor", -1)
        loc, num_lines = _whole(arguments, "loc", -1), _whole(arguments, "num_lines", -1)
        source = arguments.get("view_source") is True
        if isinstance(link, str) and not _is_number(link):
            url = _string(arguments, "id")
            shown = await self._browser.open_url(
                context.session, url, loc, num_lines, source=source
            )
        else:
            link = int(link) if isinstance(link, str) else _whole(arguments, "id", -1)
            shown = await self._browser.open_link(
                context.session, link, cursor, loc, num_lines, source=source
            )
        return _output(shown, {"type": "open_page", "url": _cited_url(shown.page)})


class FindTool(_BrowserTool):
    """Finds text on a page."""

    name = "browser.find"
    description = "Finds a text on an open page, in any case, and shows the lines around it."
    parameters = _FIND_PARAMETERS

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Show matches."""
        pattern = _string(arguments, "pattern")
        cursor = _whole(arguments, "cursor", -1)
        shown = await self._browser.find(context.session, pattern, cursor)
        url = _cited_url(shown.page)
        return _output(shown, {"type": "find_in_page", "pattern": pattern, "url": url})


def _output(shown: Shown, action: dict[str, Any]) -> ToolOutput:
    page = shown.page
    title = (page.found_in or page).title
    entry: dict[str, Any] = {"url": _cited_url(page), "title": title}
    if page.spots:
        entry["results"] = [
            {"line": spot.line, "url": spot.url, "title": spot.title} for spot in page.spots
        ]
    pages = {str(shown.cursor): entry}
    return ToolOutput(shown.text, details={"action": action, "pages": pages})


def _cited_url(page: Page) -> str:
    """What a citation of this page means: not our view of it, but the page itself."""
    return (page.found_in or page).url.removeprefix(VIEW_SOURCE)


def _string(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str):
        raise ToolError(f"`{name}` must be a string.")
    # JSON can spell half of a surrogate pair, which no encoding can.
    return value.encode("utf-8", "replace").decode()


def _whole(arguments: Mapping[str, Any], name: str, default: int) -> int:
    value = arguments.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ToolError(f"`{name}` must be a whole number.")
    return int(value)


def _is_number(text: str) -> bool:
    """Models put the number of a link into quotes at times."""
    digits = text.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 10
