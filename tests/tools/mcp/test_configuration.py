"""The values of --tool-server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ossia.errors import ConfigError
from ossia.tools.mcp.configuration import parse_tool_servers
from ossia.tools.mcp.spec import McpServerSpec

FILE = {
    "mcpServers": {
        "files": {"command": "npx", "args": ["-y", "files"], "env": {"TOKEN": "${SECRET}"}},
        "web": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer ${SECRET}"}},
        "old": {"type": "sse", "url": "https://example.org/events"},
        "off": {"command": "nothing", "disabled": True},
    }
}
TOML = """
[mcpServers.files]
command = "npx"
args = ["-y", "files"]
env = { TOKEN = "${SECRET}" }
"""


def test_urls_are_called_by_their_hosts() -> None:
    assert parse_tool_servers(["https://a.example/mcp,http://localhost:1/x", "c=https://b/"]) == [
        McpServerSpec("a.example", "streamable_http", url="https://a.example/mcp"),
        McpServerSpec("localhost", "streamable_http", url="http://localhost:1/x"),
        McpServerSpec("c", "streamable_http", url="https://b/"),
    ]


def test_labels_that_nobody_chose_are_made_unique() -> None:
    servers = parse_tool_servers(
        ["http://h:1/", "http://h:2/", "http://h/a", "http://h/b", "h=http://other/"]
    )
    assert [server.label for server in servers] == ["h-1", "h-2", "h-3", "h-4", "h"]


@pytest.mark.parametrize(
    "url", ["sse+https://example.org/x", "https://example.org/sse", "https://example.org/a/sse/"]
)
def test_sse_is_told_by_the_scheme_or_the_path(url: str) -> None:
    (server,) = parse_tool_servers([url])
    assert server.transport == "sse"
    assert server.url == url.removeprefix("sse+")


def test_files_are_read_as_other_clients_write_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(FILE))
    files, web, old = parse_tool_servers([str(path)])
    assert files == McpServerSpec(
        "files", "stdio", command="npx", args=("-y", "files"), env={"TOKEN": "s3cret"}
    )
    assert web.headers == {"Authorization": "Bearer s3cret"}
    assert (old.transport, old.url) == ("sse", "https://example.org/events")
    assert "s3cret" not in repr(web) + repr(files)
    toml = tmp_path / "mcp.toml"
    toml.write_text(TOML)
    assert parse_tool_servers([str(toml)]) == [files]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("ftp://example.org", "must be an http or https URL"),
        ("my label=https://example.org", "must be an http or https URL"),
        ("https://", "is not a valid URL"),
        ("https://example.org:99999/", "is not a valid URL"),
        ("https://user:password@example.org/", "user name or password"),
        ("/no/such/file.json", "neither a URL nor a file that can be read"),
    ],
)
def test_values_that_cannot_be_used_are_refused(value: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_tool_servers([value])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not have the form"),
        ('{"mcpServers": {"a": {"args": 1}}}', "does not have the form"),
        ('{"mcpServers": {"a": {}}}', 'needs a "command" or a "url"'),
        ('{"mcpServers": {"a": {"url": "https://x", "command": "y"}}}', "and not both"),
        ('{"mcpServers": {"a b": {"command": "y"}}}', "letters, digits"),
        ('{"mcpServers": {"a": {"command": "y", "type": "sse"}}}', "the \"type\" 'sse'"),
        ('{"mcpServers": {"a": {"url": "https://x", "type": "morse"}}}', "the \"type\" 'morse'"),
        ('{"mcpServers": {"a": {"url": "x"}}}', "must be an http or https URL"),
        ('{"mcpServers": {"a": {"command": "y", "timeout": 0}}}', "above 0 seconds"),
        ('{"mcpServers": {"a": {"command": "y", "env": {"A": "${OSSIA_NO}"}}}}', "is not set"),
    ],
)
def test_files_that_cannot_be_used_are_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "servers.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence):
        parse_tool_servers([str(path)])


def test_a_label_that_was_chosen_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="called 'a'; rename one"):
        parse_tool_servers(["a=https://x/", "a=https://y/"])
