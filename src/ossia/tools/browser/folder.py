"""Searching the documents of a folder, ranked with the BM25 of SQLite's FTS5."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

from ossia.errors import ConfigError
from ossia.tools.browser.backend import PageText, SearchHit
from ossia.tools.browser.content import readable
from ossia.tools.browser.links import LOCAL, local_path, local_url, strip_links
from ossia.tools.tool import ToolError

CONTENT_TYPES = {
    ".md": "text/markdown",
    ".txt": "text/plain",
    ".rst": "text/x-rst",
    ".html": "text/html",
    ".htm": "text/html",
}
MAX_FILE_BYTES = 2_000_000  # larger files are left out
_MAX_TERMS = 32  # of a query
_SNIPPET_WORDS = 40
_TITLE_WEIGHT = 5.0  # a word in the title says more of a document than one in its text

T = TypeVar("T")
_Stamp = tuple[int, int]  # when a file was written, in ns, and its bytes


@dataclass(frozen=True, slots=True)
class _Document:
    title: str
    text: str


class FolderSearch:
    """A `SearchBackend` over the documents of a folder; hidden files and links are left out.

    The index is in memory. It is made at the first search, and follows the files at each.
    """

    def __init__(self, folder: str) -> None:
        """Raises ConfigError if there is no such folder."""
        self._root = Path(folder).expanduser().resolve()
        if not self._root.is_dir():
            raise ConfigError(f"--browser-folder {folder!r} must be a folder that exists.")
        # One thread: what waits for the index takes no thread from others.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ossia-folder")
        self._index: _Index | None = None
        self._stamps: dict[str, _Stamp] = {}

    async def search(self, query: str, topn: int) -> Sequence[SearchHit]:
        """Documents with words of the query, or, if there are none, with the query as it is."""
        return await self._in_thread(lambda: self._search(query, topn))

    async def open(self, url: str) -> PageText:
        """The document at a `local://` URL, and nothing outside of the folder."""
        if not url.startswith(LOCAL):
            raise ToolError(
                f"Only the documents of a folder can be opened here; their URLs begin with {LOCAL}."
            )
        return await self._in_thread(lambda: self._open(local_path(url)))

    async def close(self) -> None:
        """End the thread; the index goes with it."""
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _search(self, query: str, topn: int) -> Sequence[SearchHit]:
        if self._index is None:
            self._index = _Index()
        self._follow_files(self._index)
        return self._index.search(query, topn)

    def _open(self, path: str) -> PageText:
        # Without links and dots, so that nothing leads out of the folder.
        parts = PurePosixPath(path).parts
        suffix = PurePosixPath(path).suffix.lower()
        proper = all(not part.startswith(".") for part in parts) and "\0" not in path
        if proper and suffix in CONTENT_TYPES and not path.startswith("/"):
            try:
                file = self._root.joinpath(*parts)
                if file.resolve(strict=True) == file:
                    return PageText(local_url(path), None, CONTENT_TYPES[suffix], _read(file))
            except OSError:
                pass
        raise ToolError(f"There is no document {local_url(path)[:300]}; search for it.")

    def _follow_files(self, index: _Index) -> None:
        """Bring the index up to date with the files."""
        now = dict(_documents(self._root))
        for path in self._stamps.keys() - now.keys():
            index.remove(path)
        for path, stamp in now.items():
            if self._stamps.get(path) != stamp:
                index.remove(path)
                try:
                    index.add(path, _document(self._open(path)))
                except ToolError:
                    continue  # gone since, or not readable
        self._stamps = now


class _Index:
    """Full text in memory. For one thread, but for its end."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}  # of each path
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE documents USING fts5"
            "(path UNINDEXED, title, text, tokenize='porter unicode61 remove_diacritics 2')"
        )

    def add(self, path: str, document: _Document) -> None:
        row = (path, document.title, document.text)
        added = self._database.execute("INSERT INTO documents VALUES (?, ?, ?)", row)
        assert added.lastrowid is not None
        self._rows[path] = added.lastrowid

    def remove(self, path: str) -> None:
        row = self._rows.pop(path, None)
        if row is not None:
            self._database.execute("DELETE FROM documents WHERE rowid = ?", (row,))

    def search(self, query: str, topn: int) -> Sequence[SearchHit]:
        terms = re.findall(r"\w+", query.replace("\0", " "))[:_MAX_TERMS]
        rows = []
        if terms:
            match = " OR ".join(f'"{term}"' for term in terms)
            rows = self._database.execute(
                "SELECT path, title, snippet(documents, 2, '', '', ' ... ', ?) FROM documents "
                "WHERE documents MATCH ? ORDER BY bm25(documents, 0, ?, 1), path LIMIT ?",
                (_SNIPPET_WORDS, match, _TITLE_WEIGHT, topn),
            ).fetchall()
        if not rows:
            # In languages without blanks a word is not a token.
            rows = self._database.execute(
                "SELECT path, title, substr(text, max(instr(text, :query) - 50, 1), 200) "
                "FROM documents WHERE instr(text, :query) OR instr(title, :query) "
                "ORDER BY path LIMIT :topn",
                {"query": query.strip(), "topn": topn},
            ).fetchall()
        return [SearchHit(local_url(path), title, snippet) for path, title, snippet in rows]


def _documents(root: Path) -> Iterator[tuple[str, _Stamp]]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith(".") or Path(name).suffix.lower() not in CONTENT_TYPES:
                continue
            file = Path(folder, name)
            try:
                found = file.lstat()
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode) and found.st_size <= MAX_FILE_BYTES:
                path = file.relative_to(root).as_posix()
                if path == path.encode("utf-8", "replace").decode():  # a URL can name it
                    yield path, (found.st_mtime_ns, found.st_size)


def _read(file: Path) -> str:
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_FILE_BYTES:
        raise FileNotFoundError(file)
    return file.read_bytes().decode("utf-8", "replace")


def _document(found: PageText) -> _Document:
    page = readable(found)
    # The title is shown before a snippet anyway.
    return _Document(page.title, strip_links(page.text.removeprefix(f"# {page.title}\n")))
