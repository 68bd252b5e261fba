"""A request reaches the public internet over https, and what the operator allows; nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from ossia.errors import ConfigError
from ossia.tools.addresses import (
    AddressRules,
    ForbiddenAddress,
    Resolver,
    is_public,
    safe_client,
    safe_httpx2_client,
    safe_transport,
)

PUBLIC = "93.184.215.14"


def resolving(*answers: Sequence[str]) -> tuple[Resolver, list[str]]:
    """A resolver that gives each of the answers in turn, and the names it was asked for."""
    asked: list[str] = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return answers[min(len(asked), len(answers)) - 1]

    return resolve, asked


@asynccontextmanager
async def serving(
    answer: Callable[[str], str], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[int, list[str]]]:
    """A server on 127.0.0.1; its port, and the heads of the requests it got.

    `answer` makes a response's head and body from the head of a request.
    """
    heads: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            heads.append(head)
            writer.write(answer(head).encode())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1], heads


def ok(_: str) -> str:
    return "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


Clients = Callable[..., Any]


@pytest.fixture(params=[safe_client, safe_httpx2_client])
def make_client(request: pytest.FixtureRequest) -> Clients:
    """Makes a client of httpx, and one of its fork."""

    def made(rules: AddressRules, **options: Any) -> Any:
        return request.param(rules, **{"timeout": 60, **options})  # the machine may be busy

    return made


def errors_of(client: Any) -> Any:
    return httpx if isinstance(client, httpx.AsyncClient) else httpx2


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.1/",
        "https://017700000001/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://service.localhost/",
        "https://0.0.0.0/",
        "https://10.0.0.1/",
        "https://172.16.0.1/",
        "https://192.168.1.1/",
        "https://100.64.0.1/",
        "https://100.100.100.200/",
        "https://169.254.169.254/latest/meta-data/",
        "https://168.63.129.16/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fc00::1]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[ff02::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::ffff:a00:1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[64:ff9b::169.254.169.254]/",
        "https://[64:ff9b:1::1]/",
        "https://[2002:7f00:1::]/",
        "https://[2002:a9fe:a9fe::1]/",
        "https://[2001:0:1::1]/",
        "https://[2001:db8::1]/",
    ],
)
def test_addresses_that_are_not_public_are_refused_in_every_spelling(url: str) -> None:
    with pytest.raises(ForbiddenAddress, match="--allowed-host"):
        AddressRules().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/path?q=1",
        f"https://{PUBLIC}/",
        "https://1.1.1.1:8443/",
        "https://[2606:4700:4700::1111]/",
        "https://[::ffff:1.1.1.1]/",
        "https://[64:ff9b::1.1.1.1]/",
        "https://[2002:101:101::]/",
        "https://bücher.example/",
    ],
)
def test_the_public_internet_is_allowed_over_https(url: str) -> None:
    AddressRules().check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/",
        "ftp://example.org/",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "//example.org/",
        "example.org",
        "",
        "https://[::1",
        "https://example.org:99999/",
        "https://user:secret@example.org/",
        "https://user@example.org/",
        "https://0177.0.0.1/",
        "https://exa\x00mple.org/",
    ],
)
def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        AddressRules().check_url(url)


@given(st.text() | st.text().map("https://{}".format))
def test_any_text_is_either_allowed_or_forbidden(url: str) -> None:
    with contextlib.suppress(ForbiddenAddress):
        AddressRules(["intranet"]).check_url(url)


@given(st.ip_addresses(v=4))
def test_an_address_is_as_public_as_the_one_it_carries(address: Any) -> None:
    number = int(address)
    carriers = [0xFFFF << 32 | number, 0x64FF9B << 96 | number, 0x2002 << 112 | number << 80]
    for carrier in carriers:
        assert is_public(ip_address(carrier)) == is_public(address)


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_calls_private(address: Any) -> None:
    if address.is_loopback or address.is_link_local or address.is_multicast:
        assert not is_public(address)
    if address.version == 4 and address.is_private:
        assert not is_public(address)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("localhost", "http://localhost:8080/"),
        ("intranet", "http://intranet/wiki"),
        ("Intranet.", "https://intranet:8443/"),
        ("intranet:8080", "http://intranet:8080/"),
        ("*.example.org", "http://docs.example.org/"),
        ("*.example.org", "http://a.b.example.org/"),
        ("bücher.example", "http://bücher.example/"),
        ("127.0.0.1", "http://127.0.0.1:9/"),
        ("127.0.0.1:9", "http://127.0.0.1:9/"),
        ("127.0.0.1:9", "http://0x7f000001:9/"),
        ("10.1.0.0/16", "http://10.1.2.3/"),
        ("[::1]:80", "http://[::1]/"),
        ("::1", "http://[::1]/"),
    ],
)
def test_the_operator_allows_hosts(allowed: str, url: str) -> None:
    AddressRules([allowed]).check_url(url)


@pytest.mark.parametrize(
    ("allowed", "url"),
    [
        ("intranet:8080", "http://intranet/"),
        ("intranet", "http://intranet.evil.example/"),
        ("*.example.org", "http://example.org/"),
        ("*.example.org", "http://evilexample.org/"),
        ("10.1.0.0/16", "http://10.2.0.1/"),
        ("127.0.0.1:9", "http://127.0.0.1:10/"),
        ("intranet", "http://someone@intranet/"),
        ("intranet", "ftp://intranet/"),
    ],
)
def test_an_allowed_host_allows_no_other(allowed: str, url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        AddressRules([allowed]).check_url(url)


@pytest.mark.parametrize(
    "text", ["", "*", "https://intranet", "intranet/wiki", "a@b", "host:port", "10.0.0.0/99", "a b"]
)
def test_an_allowed_host_that_is_none_is_said_at_start_up(text: str) -> None:
    with pytest.raises(ConfigError, match="must be a host"):
        AddressRules([text])


def test_a_local_server_is_reached_only_where_it_is_allowed(make_client: Clients) -> None:
    async def run() -> None:
        async with serving(ok) as (port, heads):
            async with make_client(AddressRules(["127.0.0.1"])) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"
            async with make_client(AddressRules()) as client:
                with pytest.raises(ForbiddenAddress):
                    await client.get(f"http://127.0.0.1:{port}/")
                with pytest.raises(ForbiddenAddress):
                    await client.get(f"https://127.0.0.1:{port}/")
            assert len(heads) == 1

    asyncio.run(run())


def test_a_name_with_one_address_that_is_not_public_is_refused(make_client: Clients) -> None:
    async def run() -> None:
        resolve, asked = resolving([PUBLIC, "127.0.0.1"])
        async with make_client(AddressRules(), resolve=resolve) as client:
            with pytest.raises(ForbiddenAddress, match=r"rebind\.example is not on the public"):
                await client.get("https://rebind.example/")
        assert asked == ["rebind.example"]

    asyncio.run(run())


def test_a_name_in_an_allowed_network_is_connected_to() -> None:
    async def run() -> None:
        resolve, _ = resolving(["127.0.0.1"])
        async with safe_client(AddressRules(["127.0.0.0/8"]), resolve=resolve) as client:
            with pytest.raises(httpx.ConnectError):  # it gets so far; nobody serves TLS there
                await client.get(f"https://intern.example:{unused_port()}/")

    asyncio.run(run())


def test_the_address_that_was_checked_is_the_one_connected_to(make_client: Clients) -> None:
    """The name is resolved once a connection; what it is later does not count."""

    async def run() -> None:
        resolve, asked = resolving(["127.0.0.1"], ["169.254.169.254"])
        async with serving(ok) as (port, heads):
            rules = AddressRules([f"once.example:{port}"])
            async with make_client(rules, resolve=resolve) as client:
                assert (await client.get(f"http://once.example:{port}/page")).text == "hello"
        assert asked == ["once.example"]
        assert f"host: once.example:{port}" in heads[0].lower()

    asyncio.run(run())


def test_a_name_that_turns_inwards_later_is_refused_then(make_client: Clients) -> None:
    async def run() -> None:
        resolve, asked = resolving(["127.0.0.1"], ["127.0.0.1", "192.168.0.1"])
        rules = AddressRules(["127.0.0.1"])  # stands for a public address
        async with make_client(rules, resolve=resolve) as client:
            url = f"https://turning.example:{unused_port()}/"
            with pytest.raises(errors_of(client).ConnectError):
                await client.get(url)
            with pytest.raises(ForbiddenAddress):
                await client.get(url)
        assert len(asked) == 2

    asyncio.run(run())


@pytest.mark.parametrize("url", ["http://plain.example/", "https://me:word@plain.example/"])
def test_a_client_refuses_what_is_no_plain_https_url_before_it_looks(
    make_client: Clients, url: str
) -> None:
    async def run() -> None:
        resolve, asked = resolving([PUBLIC])
        async with make_client(AddressRules(), resolve=resolve) as client:
            with pytest.raises(ForbiddenAddress):
                await client.get(url)
        assert asked == []

    asyncio.run(run())


def test_redirects_are_checked_like_any_request(make_client: Clients) -> None:
    async def run() -> None:
        async with serving(ok) as (inner, inner_heads):

            def redirect(_: str) -> str:
                return (
                    f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{inner}/\r\n"
                    "Content-Length: 0\r\nConnection: close\r\n\r\n"
                )

            async with serving(redirect) as (outer, _):
                rules = AddressRules([f"127.0.0.1:{outer}"])
                async with make_client(rules, follow_redirects=True) as client:
                    with pytest.raises(ForbiddenAddress):
                        await client.get(f"http://127.0.0.1:{outer}/")
            assert inner_heads == []

    asyncio.run(run())


def test_a_proxy_of_the_environment_is_not_used(
    make_client: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with serving(ok) as (port, heads), serving(ok) as (proxy, proxy_heads):
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy}")
            async with make_client(AddressRules(["127.0.0.1"])) as client:
                await client.get(f"http://127.0.0.1:{port}/")
            assert (len(heads), proxy_heads) == (1, [])

    asyncio.run(run())


def test_no_option_leads_around_the_rules(make_client: Clients) -> None:
    with pytest.raises(TypeError, match="proxy"):
        make_client(AddressRules(), proxy="http://127.0.0.1:1")


def test_one_persons_cookies_are_not_sent_for_another(make_client: Clients) -> None:
    def cookie(_: str) -> str:
        return (
            "HTTP/1.1 200 OK\r\nSet-Cookie: who=first\r\n"
            "Content-Length: 0\r\nConnection: close\r\n\r\n"
        )

    async def run() -> None:
        async with serving(cookie) as (port, heads):
            async with make_client(AddressRules(["127.0.0.1"])) as client:
                await client.get(f"http://127.0.0.1:{port}/")
                await client.get(f"http://127.0.0.1:{port}/")
            assert len(heads) == 2
            assert "cookie" not in heads[1].lower()

    asyncio.run(run())


def test_the_next_address_is_tried_where_one_does_not_answer(make_client: Clients) -> None:
    async def run() -> None:
        async with serving(ok) as (port, _):
            resolve, _asked = resolving(["127.0.0.2", "127.0.0.1"])  # nobody listens on the first
            async with make_client(AddressRules(["two.example"]), resolve=resolve) as client:
                assert (await client.get(f"http://two.example:{port}/")).text == "hello"

    asyncio.run(run())


def test_failures_are_those_of_the_client_library(make_client: Clients) -> None:
    async def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror

    async def run() -> None:
        async with make_client(AddressRules(), resolve=unknown) as client:
            with pytest.raises(errors_of(client).ConnectError, match="cannot be resolved"):
                await client.get("https://unknown.example/")
        async with make_client(AddressRules(["127.0.0.1"])) as client:
            with pytest.raises(errors_of(client).ConnectError):
                await client.get(f"http://127.0.0.1:{unused_port()}/")

    asyncio.run(run())


def test_a_name_that_takes_too_long_to_resolve_is_a_timeout(make_client: Clients) -> None:
    async def never(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async def run() -> None:
        async with make_client(AddressRules(), resolve=never, timeout=0.05) as client:
            with pytest.raises(errors_of(client).ConnectTimeout):
                await client.get("https://slow.example/")

    asyncio.run(run())


def test_a_body_that_breaks_off_is_an_error_of_the_client_library(make_client: Clients) -> None:
    def short(_: str) -> str:
        return "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello"

    async def run() -> None:
        client = make_client(AddressRules(["127.0.0.1"]))
        async with serving(short) as (port, _), client:
            with pytest.raises(errors_of(client).RemoteProtocolError):
                await client.get(f"http://127.0.0.1:{port}/")

    asyncio.run(run())


def test_tls_goes_by_the_name_not_by_the_address(make_client: Clients, tmp_path: Path) -> None:
    served, trusted = certificate("secure.example", tmp_path)
    names: list[str | None] = []
    served.sni_callback = lambda _, name, __: names.append(name)

    async def run() -> None:
        resolve, _ = resolving(["127.0.0.1"])
        async with serving(ok, tls=served) as (port, _heads):
            rules = AddressRules(["127.0.0.1"])
            async with make_client(rules, resolve=resolve, verify=trusted) as client:
                assert (await client.get(f"https://secure.example:{port}/")).text == "hello"
                with pytest.raises(errors_of(client).ConnectError, match=r"(?i)certificate"):
                    await client.get(f"https://other.example:{port}/")

    asyncio.run(run())
    assert names == ["secure.example", "other.example"]


def test_the_transport_can_be_given_to_a_client_of_ones_own() -> None:
    async def run() -> None:
        async with serving(ok) as (port, _):
            transport = safe_transport(AddressRules(["127.0.0.1"]))
            async with httpx.AsyncClient(transport=transport) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/")).text == "hello"

    asyncio.run(run())


def unused_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        return port


def certificate(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate of this name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cafile=file)
