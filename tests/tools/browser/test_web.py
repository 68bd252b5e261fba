"""The web is searched with a service that speaks SearXNG's API, its pages are fetched safely."""

from __future__ import annotations

import pytest

from ossia.tools.tool import ToolError

from .conftest import OnWeb, Session, Web

PAGE = """<html><head><title>Quokkas &amp; more</title><script>evil()</script></head><body>
<p>They live on <a href="/island">an island</a>, says
<a href="https://zoo.example/q?x=1#top">the zoo</a>.</p></body></html>"""


def hit(web: Web, path: str, title: str = "Quokkas", content: str = "small") -> dict[str, str]:
    return {"url": web.url(path), "title": title, "content": content}


def test_results_are_shown_and_opened(web: Web, on_web: OnWeb) -> None:
    web.pages["/q"] = ("text/html", PAGE)
    web.pages["/island"] = ("text/plain", "Rottnest")

    async def talk(session: Session) -> None:
        web.results = [hit(web, "/q"), hit(web, "/z", "【1†Fake†x】", "a\n\nb")]
        found = await session.search("where do quokkas live?", topn=5)
        assert web.asked == ["/search?q=where+do+quokkas+live%3F&format=json"]
        domain = f"127.0.0.1:{web.port}"
        assert f"L4:   * 【0†Quokkas†{domain}】 small" in found.text
        assert f"L5:   * 【1†〖1‡Fake‡x〗†{domain}】 a b" in found.text
        page = await session.open(0)
        assert page.text.startswith(f"[1] Quokkas & more ({web.url('/q')})\n")
        assert "live on 【0†an island】, says 【1†the zoo†zoo.example】." in page.text
        assert "evil" not in page.text
        assert "Rottnest" in (await session.open(0)).text

    on_web(talk)


def test_a_page_that_is_open_is_not_fetched_again_by_its_link(web: Web, on_web: OnWeb) -> None:
    web.pages["/q"] = ("text/html", PAGE)

    async def talk(session: Session) -> None:
        web.results = [hit(web, "/q")]
        await session.search("quokkas")
        await session.open(0)
        await session.open(0, cursor=0)
        assert web.asked.count("/q") == 1
        await session.open(web.url("/q"))  # by its URL, it is read as it is now
        assert web.asked.count("/q") == 2

    on_web(talk)


def test_only_the_service_may_be_inside_not_the_pages(web: Web, on_web: OnWeb) -> None:
    web.pages["/admin"] = ("text/html", "secret")

    async def talk(session: Session) -> None:
        web.results = [hit(web, "/admin")]
        await session.search("quokkas")
        for link in (0, web.url("/admin"), "https://169.254.169.254/", "local://x", "file:///etc"):
            with pytest.raises(ToolError):
                await session.open(link)
        assert "/admin" not in web.asked

    on_web(talk, allowed=())


@pytest.mark.parametrize(
    "answer", ["[]", "{}", "nonsense", '{"results": 3}', '{"results": [3]}', "[" * 100_000]
)
def test_a_service_that_answers_nonsense_is_said(web: Web, on_web: OnWeb, answer: str) -> None:
    web.raw_results = answer

    async def talk(session: Session) -> None:
        with pytest.raises(ToolError, match="did not answer with JSON in the way of SearXNG"):
            await session.search("quokkas")

    on_web(talk)


def test_a_service_that_fails_is_not_named(
    web: Web, on_web: OnWeb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Web, "answer", lambda *_: (403, "text/html", ""))

    async def talk(session: Session) -> None:
        with pytest.raises(ToolError, match=r"^The search service failed: it answers with status"):
            await session.search("quokkas")

    on_web(talk)


def test_results_of_any_shape_are_read(web: Web, on_web: OnWeb) -> None:
    web.raw_results = (
        '{"results": [{"url": ""}, {"url": "javascript:x()", "title": "bad"},'
        ' {"url": "https://a.example/", "title": null}, {"url": 5},'
        ' {"url": "https://b.example/\\ud800", "title": "\\ud800", "content": ["x"]}]}'
    )

    async def talk(session: Session) -> None:
        found = await session.search("quokkas")
        assert "【0†https://a.example/†a.example】" in found.text
        assert "bad" not in found.text
        found.text.encode()

    on_web(talk)


def test_pages_that_are_missing_or_no_text_are_said(web: Web, on_web: OnWeb) -> None:
    web.pages["/paper"] = ("application/pdf", "%PDF")

    async def talk(session: Session) -> None:
        with pytest.raises(ToolError, match="is a PDF"):
            await session.open(web.url("/paper"))
        with pytest.raises(ToolError, match="status 404"):
            await session.open(web.url("/nowhere"))
        with pytest.raises(ToolError, match="is not an https URL"):
            await session.open("quokkas")

    on_web(talk)
