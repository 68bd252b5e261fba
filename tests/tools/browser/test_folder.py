"""Documents of a folder are searched, opened and read; nothing outside of it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.errors import ConfigError
from ossia.tools.browser import browser_tools
from ossia.tools.options import ToolOptions
from ossia.tools.tool import ToolError

from .conftest import Session, Talk

InFolder = Callable[[Talk], None]


def urls(output: object) -> list[str]:
    return [source["url"] for source in output.details["action"]["sources"]]  # type: ignore[attr-defined]


def test_a_search_ranks_titles_above_mentions(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        found = await session.search("tomatoes")
        assert urls(found)[0] == "local://guide.md"
        assert set(urls(found)) == {"local://guide.md", "local://notes.txt", "local://plain.rst"}

    in_folder(talk)


def test_words_are_found_in_other_forms(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        assert urls(await session.search("Where to WATER a tomato?"))

    in_folder(talk)


def test_no_more_results_than_asked_for(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        assert len(urls(await session.search("tomatoes", topn=1))) == 1
        assert len(urls(await session.search("tomatoes", topn=-3))) == 1

    in_folder(talk)


def test_languages_without_blanks_are_searched_too(folder: Path, in_folder: InFolder) -> None:
    (folder / "ja.txt").write_text("富士山は日本で一番高い山です。", encoding="utf-8")

    async def talk(session: Session) -> None:
        assert urls(await session.search("日本")) == ["local://ja.txt"]

    in_folder(talk)


def test_a_search_without_results_says_so(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        found = await session.search("xylophone")
        assert "Nothing was found" in found.text
        assert urls(found) == []

    in_folder(talk)


def test_the_index_follows_the_files(folder: Path, in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        assert urls(await session.search("peat")) == ["local://more/soil.md"]
        (folder / "more/soil.md").write_text("# Soil\n\nNothing but sand and gravel.\n")
        (folder / "new.txt").write_text("Peat, at last.")
        (folder / "notes.txt").unlink()
        assert urls(await session.search("peat")) == ["local://new.txt"]
        assert urls(await session.search("gravel")) == ["local://more/soil.md"]
        assert urls(await session.search("watering can")) == []

    in_folder(talk)


def test_links_lead_from_document_to_document(in_folder: InFolder) -> None:
    async def talk(session: Session) -> None:
        page = await session.open("local://guide.md")
        assert "【0†soil】 and 【1†a shop†shop.example】" in page.text.replace("\nL5: ", "")
        assert "[not a link](x.md)" in page.text
        soil = await session.open(0)
        assert soil.details["action"] == {"type": "open_page", "url": "local://more/soil.md"}
        back = await session.open(0)
        assert back.details["pages"] == {
            "2": {"url": "local://guide.md", "title": "Growing tomatoes"}
        }
        with pytest.raises(ToolError, match="Only the documents of a folder"):
            await session.open(1)

    in_folder(talk)


def test_names_with_blanks_and_letters_of_any_script_can_be_opened(
    folder: Path, in_folder: InFolder
) -> None:
    (folder / "Über uns #1?.txt").write_text("Quokkas")

    async def talk(session: Session) -> None:
        await session.search("quokkas")
        assert "Quokkas" in (await session.open(0)).text

    in_folder(talk)


def test_what_is_outside_or_hidden_is_neither_found_nor_opened(
    folder: Path, in_folder: InFolder, tmp_path: Path
) -> None:
    secret = "Kryptonite is the secret."
    (tmp_path / "secret.txt").write_text(secret)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret.txt").write_text(secret)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "linked").symlink_to(tmp_path / "outside")
    (folder / ".hidden.txt").write_text(secret)
    (folder / ".git").mkdir()
    (folder / ".git/config.txt").write_text(secret)
    (folder / "program.py").write_text(secret)
    os.mkfifo(folder / "pipe.txt")

    async def talk(session: Session) -> None:
        assert urls(await session.search("kryptonite")) == []
        for url in (
            "local://link.txt",
            "local://linked/secret.txt",
            "local://../secret.txt",
            "local://more/../../secret.txt",
            "local://%2e%2e/secret.txt",
            f"local://{tmp_path}/secret.txt",
            f"local:///{tmp_path}/secret.txt",
            "local://.hidden.txt",
            "local://.git/config.txt",
            "local://program.py",
            "local://pipe.txt",
            "local://more",
            "local://",
            "local://x%00.txt",
            f"local://{'x' * 5000}.txt",
            f"file://{tmp_path}/secret.txt",
            "https://example.org/",
        ):
            with pytest.raises(ToolError, match=r"There is no document|Only the documents"):
                await session.open(url)

    in_folder(talk)


def test_documents_that_are_too_large_are_left_out(
    folder: Path, in_folder: InFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ossia.tools.browser.folder.MAX_FILE_BYTES", 60)

    async def talk(session: Session) -> None:
        assert urls(await session.search("tomatoes")) == ["local://notes.txt", "local://plain.rst"]
        with pytest.raises(ToolError):
            await session.open("local://guide.md")

    in_folder(talk)


def test_bytes_that_are_no_text_do_no_harm(folder: Path, in_folder: InFolder) -> None:
    (folder / "broken.txt").write_bytes(b"tomatoes \xff\xfe\x00\x01 more")

    async def talk(session: Session) -> None:
        assert "local://broken.txt" in urls(await session.search("tomatoes"))

    in_folder(talk)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (ToolOptions(), "--browser-folder DIR or --browser-search-url URL"),
        (ToolOptions(browser_folder="/no/such/folder"), "must be a folder that exists"),
        (ToolOptions(browser_folder="/", browser_search_url="http://x"), "not both"),
        (ToolOptions(browser_search_url="searx"), "URL of a SearXNG service"),
        (ToolOptions(browser_search_url="http://x:y"), "URL of a SearXNG service"),
        (ToolOptions(browser_search_url="http://x", allowed_hosts=("*",)), "--allowed-host"),
    ],
)
def test_what_cannot_work_is_said_at_start_up(options: ToolOptions, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        browser_tools(options)
