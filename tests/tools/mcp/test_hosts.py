"""Which names and pages may speak to our MCP server."""

from __future__ import annotations

import pytest

from ossia.tools.mcp.hosts import HostCheck

CHECK = HostCheck(["models.example.org", "*.example.net", "10.0.0.0/8"])


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:1234", None, None),
        ("LOCALHOST", None, None),
        ("192.168.1.7:8000", None, None),
        ("[::1]:8000", None, None),
        ("models.example.org", None, None),
        ("a.b.example.net:80", None, None),
        ("example.net", None, 421),
        ("evil.example.com", None, 421),
        ("localhost.evil.example.com", None, 421),
        ("[", None, 421),
        ("", None, 421),
        (None, None, 421),
        ("localhost", "http://localhost:6274", None),
        ("localhost", "https://models.example.org", None),
        ("192.168.1.7:8000", "http://192.168.1.7:8000", None),
        ("localhost", "https://evil.example.com", 403),
        ("localhost", "http://192.0.2.9", 403),
        ("localhost", "http://localhost.evil.example.com", 403),
        ("localhost", "null", 403),
        ("localhost", "http://[", 403),
        ("localhost", "", 403),
    ],
)
def test_only_known_names_and_addresses_pass(
    host: str | None, origin: str | None, status: int | None
) -> None:
    refusal = CHECK.refusal(host, origin)
    assert (refusal and refusal[0]) == status


def test_an_operator_can_allow_everybody() -> None:
    assert HostCheck(["*"]).refusal("evil.example.com", "https://evil.example.com") is None
