"""A browser over a folder of small documents, and one over a web that plays on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from ossia.tools.browser import browser_tools
from ossia.tools.options import ToolOptions
from ossia.tools.tool import CallContext, Tool, ToolOutput

LONG = "\n".join(f"<p>Paragraph {number} of a long story.</p>" for number in range(400))
DOCUMENTS = {
    "guide.md": "# Growing tomatoes\n\nTomatoes need sun. See [soil](more/soil.md#acid) and "
    "[a shop](https://shop.example/seeds).\n\n```\n[not a link](x.md)\n```\n",
    "more/soil.md": "# Soil\n\nPeat is acid. Back to [the guide](../guide.md).\n",
    "story.html": f"<title>A long story</title><h1>Story</h1>{LONG}<p>The butler did it.</p>",
    "notes.txt": "Buy tomatoes and a watering can.\n",
    "plain.rst": "Basil\n=====\n\nBasil likes the company of tomatoes.\n",
}


@dataclass(slots=True)
class Session:
    """Calls the browser's functions as a model in one conversation does."""

    tools: Mapping[str, Tool]
    name: str = "one"

    async def search(self, query: str, **arguments: Any) -> ToolOutput:
        return await self.call("search", query=query, **arguments)

    async def open(self, link: int | float | str = -1, **arguments: Any) -> ToolOutput:
        return await self.call("open", id=link, **arguments)

    async def find(self, pattern: str, **arguments: Any) -> ToolOutput:
        return await self.call("find", pattern=pattern, **arguments)

    async def call(self, function: str, /, **arguments: Any) -> ToolOutput:
        return await self.tools[f"browser.{function}"].call(arguments, CallContext(self.name))


Talk = Callable[[Session], Awaitable[None]]


async def talk_with(options: ToolOptions, talk: Talk) -> None:
    tools = browser_tools(options)
    try:
        await talk(Session({tool.name: tool for tool in tools}))
    finally:
        for tool in tools:
            await tool.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "documents"
    for name, text in DOCUMENTS.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def in_folder(folder: Path) -> Callable[[Talk], None]:
    """Runs a conversation with the documents."""
    return lambda talk: asyncio.run(talk_with(ToolOptions(browser_folder=str(folder)), talk))


@dataclass(slots=True)
class Web:
    """What the server on 127.0.0.1 has, and what it was asked for."""

    port: int = 0
    results: Sequence[Mapping[str, Any]] = ()
    raw_results: str | None = None  # instead of them
    pages: dict[str, tuple[str, str]] = field(default_factory=dict)  # content type and text
    asked: list[str] = field(default_factory=list)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, target: str) -> tuple[int, str, str]:
        self.asked.append(target)
        parts = urlsplit(target)
        if parts.path == "/search" and parse_qs(parts.query).get("format") == ["json"]:
            body = json.dumps({"query": "", "results": list(self.results)})
            return 200, "application/json", self.raw_results or body
        if parts.path in self.pages:
            return 200, *self.pages[parts.path]
        return 404, "text/html", "nothing here"


@asynccontextmanager
async def serving(web: Web) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            status, content_type, text = web.answer(head.split()[1])
            body = text.encode()
            writer.write(
                f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}; charset=utf-8\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        web.port = server.sockets[0].getsockname()[1]
        yield


OnWeb = Callable[..., None]


@pytest.fixture
def web() -> Web:
    return Web()


@pytest.fixture
def on_web(web: Web) -> OnWeb:
    """Runs a conversation with the web; `allowed` are the hosts whose pages may be opened."""

    def run(talk: Talk, allowed: Sequence[str] = ("127.0.0.1",)) -> None:
        async def served() -> None:
            async with serving(web):
                options = ToolOptions(browser_search_url=web.url(""), allowed_hosts=tuple(allowed))
                await talk_with(options, talk)

        asyncio.run(served())

    return run
