"""What the built-in tools may be told at start-up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ToolOptions:
    """Options of the built-in tools, as the configuration gives them."""

    python_memory: int = 1 << 30  # bytes that the code of one conversation may use
    python_timeout: float = 60.0  # seconds that one piece of code may take
    browser_folder: str | None = None  # documents to search; None searches the web
    browser_search_url: str | None = None  # of a search service
    allowed_hosts: tuple[str, ...] = ()  # that tools may reach although they are not public
