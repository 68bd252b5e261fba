"""A page is fetched within its limits, or one sentence says why it cannot be."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ossia.tools.addresses import AddressRules, ForbiddenAddress, safe_client
from ossia.tools.fetching import FetchError, Page, fetch

Answer = Callable[[str], bytes | None]


def page(
    body: bytes, content_type: str = "text/html", *headers: str, status: str = "200 OK"
) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    if content_type:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(to: str) -> bytes:
    return page(b"", "", f"Location: {to}", status="302 Found")


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[int]:
    """A server on 127.0.0.1 that answers by path; its port. None: it never answers."""
    stop = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            sent = answer(head.split()[1])
            if sent is None:
                await stop.wait()
            else:
                writer.write(sent)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            stop.set()  # the server is closed when its connections are


def fetched(answer: Answer, path: str = "/", *, max_bytes: int = 1000, timeout: float = 30) -> Page:
    async def run() -> Page:
        async with serving(answer) as port, safe_client(AddressRules(["127.0.0.1"])) as client:
            url = f"http://127.0.0.1:{port}{path}"
            return await fetch(client, url, max_bytes=max_bytes, timeout=timeout)

    return asyncio.run(run())


def test_a_page_comes_with_its_type_and_text() -> None:
    found = fetched(lambda _: page("<p>Grüße".encode(), "Text/HTML; charset=UTF-8"))
    assert (found.status, found.content_type, found.body) == (200, "text/html", "<p>Grüße")


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("Grüße".encode("cp1252"), "text/plain; charset=iso-8859-1", "Grüße"),
        ("日本".encode("shift_jis"), "text/plain; charset=Shift_JIS", "日本"),
        (b"<meta charset='windows-1251'>" + "да".encode("cp1251"), "text/html", "да"),
        (b"\xef\xbb\xbfhello", "text/plain; charset=ascii", "hello"),
        (b"\xff", "text/plain", "\ufffd"),
        (b"hello", "text/plain; charset=no-such", "hello"),
        (b"hello", "text/plain; charset=zip", "hello"),
        (b"hello", "", "hello"),
    ],
)
def test_the_text_is_read_in_the_charset_that_it_names(
    body: bytes, content_type: str, text: str
) -> None:
    assert fetched(lambda _: page(body, content_type)).body.endswith(text)


@pytest.mark.parametrize(
    "content_type",
    ["text/markdown", "application/json", "application/xhtml+xml", "application/xml", "text/xml"],
)
def test_what_is_text_is_accepted(content_type: str) -> None:
    assert fetched(lambda _: page(b"{}", content_type)).content_type == content_type


@pytest.mark.parametrize(
    ("content_type", "sentence"),
    [("application/pdf", "is a PDF"), ("image/png", "is not a page of text but image/png")],
)
def test_what_is_no_text_is_refused(content_type: str, sentence: str) -> None:
    with pytest.raises(FetchError, match=sentence):
        fetched(lambda _: page(b"%PDF", content_type))


def test_a_page_may_be_as_large_as_the_limit_and_no_larger() -> None:
    assert len(fetched(lambda _: page(b"a" * 1000)).body) == 1000
    with pytest.raises(FetchError, match=r"larger than 0\.001 MB"):
        fetched(lambda _: page(b"a" * 1001))


def test_what_unpacks_to_more_than_the_limit_is_refused() -> None:
    packed = gzip.compress(b"a" * 100_000)
    assert len(packed) < 1000
    with pytest.raises(FetchError, match="larger"):
        fetched(lambda _: page(packed, "text/html", "Content-Encoding: gzip"))


def test_packed_pages_are_unpacked_once() -> None:
    packed = gzip.compress(b"hello")
    assert fetched(lambda _: page(packed, "text/html", "Content-Encoding: gzip")).body == "hello"
    twice = gzip.compress(packed)
    with pytest.raises(FetchError, match="was not asked for"):
        fetched(lambda _: page(twice, "text/html", "Content-Encoding: gzip, gzip"))
    with pytest.raises(FetchError, match="cannot be unpacked"):
        fetched(lambda _: page(b"hello", "text/html", "Content-Encoding: gzip"))


def test_a_server_that_never_answers_is_given_up() -> None:
    with pytest.raises(FetchError, match=r"did not answer within 0\.1 s"):
        fetched(lambda _: None, timeout=0.1)


def test_an_error_status_is_said() -> None:
    with pytest.raises(FetchError, match="answers with status 404"):
        fetched(lambda _: page(b"", "", status="404 Not Found"))


def test_redirects_are_followed_to_the_page() -> None:
    found = fetched(lambda path: redirect("/there?a=b") if path == "/" else page(b"here"))
    assert (found.body, found.url.partition("/there")[1:]) == ("here", ("/there", "?a=b"))


def test_five_redirects_are_followed_and_no_more() -> None:
    def counting(path: str) -> bytes:
        left = int(path[1:])
        return redirect(f"/{left - 1}") if left else page(b"here")

    assert fetched(counting, "/5").body == "here"
    with pytest.raises(FetchError, match="redirects more than 5 times"):
        fetched(counting, "/6")


@pytest.mark.parametrize(
    "target",
    ["http://localhost/", "https://10.0.0.1/", "http://example.org/", "https://me@example.org/"],
)
def test_a_redirect_to_a_forbidden_address_is_refused(target: str) -> None:
    with pytest.raises(ForbiddenAddress):
        fetched(lambda _: redirect(target))


@pytest.mark.parametrize("target", ["http://[", "file:///etc/passwd"])
def test_a_redirect_to_nowhere_is_refused(target: str) -> None:
    with pytest.raises((FetchError, ForbiddenAddress)):
        fetched(lambda _: redirect(target))


def test_broken_answers_and_closed_ports_are_said() -> None:
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetched(lambda _: b"nonsense\r\n\r\n")
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetched(lambda _: b"")


def test_what_is_no_url_is_said() -> None:
    async def run(url: str) -> None:
        async with safe_client(AddressRules()) as client:
            await fetch(client, url)

    for url in (
        "",
        "no url",
        "https://[",
        "https://exa mple/",
        "//x",
        "https://\x00",
        "x" * 100_000,
    ):
        with pytest.raises((FetchError, ForbiddenAddress)):
            asyncio.run(run(url))
