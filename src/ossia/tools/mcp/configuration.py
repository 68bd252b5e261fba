"""The values of `--tool-server`: URLs, and files as other MCP clients have them.

The form of the files: {"mcpServers": {"label": {"command": ..., "args": [...], "env": {...}}}} or
{"url": ..., "headers": {...}, "type": "sse"} in the place of the command, as JSON or TOML.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ossia.errors import ConfigError
from ossia.tools.mcp.spec import DEFAULT_TIMEOUT, McpServerSpec, TransportName

_LABEL = re.compile(r"[A-Za-z0-9_.-]+")
_LABELLED_URL = re.compile(r"(?:([A-Za-z0-9_.-]+)=)?((?:sse\+)?https?://.*)")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_TRANSPORTS: Mapping[str, TransportName] = {
    "http": "streamable_http",
    "streamable-http": "streamable_http",
    "streamable_http": "streamable_http",
    "streamableHttp": "streamable_http",
    "sse": "sse",
    "stdio": "stdio",
}


class _Entry(msgspec.Struct, rename={"allowed_tools": "allowedTools"}):
    """A server of a file; what other clients put there besides is ignored."""

    command: str | None = None
    args: list[str] = []
    env: dict[str, str] = {}
    cwd: str | None = None
    url: str | None = None
    headers: dict[str, str] = {}
    type: str | None = None
    timeout: float = DEFAULT_TIMEOUT  # seconds
    allowed_tools: list[str] | None = None
    disabled: bool = False


class _File(msgspec.Struct, rename={"servers": "mcpServers"}):
    servers: dict[str, _Entry]


def parse_tool_servers(values: Sequence[str]) -> list[McpServerSpec]:
    """The servers that the values of `--tool-server` name.

    A value is a URL, several with commas between them, `label=URL`, or the path of a file.
    Streamable HTTP is spoken, SSE to `sse+http(s)://` and to paths that end in `/sse`.

    Raises:
        ConfigError: a value, or what a file says, cannot be used; says what to change.
    """
    found = [pair for value in values for pair in _of_value(value.strip())]
    taken: set[str] = set()
    for spec, named in found:
        if named and spec.label in taken:
            raise ConfigError(
                f"Two servers of --tool-server are called {spec.label!r}; rename one."
            )
        if named:
            taken.add(spec.label)
    servers: list[McpServerSpec] = []
    for spec, named in found:
        if not named:
            spec = _with_free_label(spec, taken)
            taken.add(spec.label)
        servers.append(spec)
    return servers


def _of_value(value: str) -> Iterator[tuple[McpServerSpec, bool]]:
    """Servers, and whether their labels are of the operator's choice."""
    if "://" in value:
        for part in value.split(","):
            yield _of_url(part.strip())
    else:
        for spec in _of_file(Path(value).expanduser()):
            yield spec, True


def _of_url(text: str) -> tuple[McpServerSpec, bool]:
    match = _LABELLED_URL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"--tool-server {text!r} must be an http or https URL, LABEL=URL, or the path of a "
            "file."
        )
    label, url = match.groups()
    transport: TransportName = "streamable_http"
    if url.startswith("sse+") or urlsplit(url).path.rstrip("/").endswith("/sse"):
        transport = "sse"
    url = url.removeprefix("sse+")
    host = _host(url)
    return McpServerSpec(label or host, transport, url=url), label is not None


def _host(url: str) -> str:
    """The host of a URL, to be called by.

    Raises:
        ConfigError: it has none, or says who connects.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port out of range raises
    except ValueError:
        host = None
    if not host:
        raise ConfigError(f"--tool-server {url!r} is not a valid URL.")
    if parts.username is not None:
        raise ConfigError(
            f"The --tool-server at {host} must not have a user name or password in its URL; "
            'use a file with "headers" instead.'
        )
    return host.replace(":", "-")


def _with_free_label(spec: McpServerSpec, taken: set[str]) -> McpServerSpec:
    """The server called by its host, by host and port, or by host and number."""
    port = urlsplit(spec.url).port
    candidates = [spec.label]
    candidates += [f"{spec.label}-{port}"] if port is not None else []
    candidates += [f"{spec.label}-{number}" for number in range(2, len(taken) + 3)]
    label = next(name for name in candidates if name not in taken)
    return dataclasses.replace(spec, label=label)


def _of_file(path: Path) -> Iterator[McpServerSpec]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--tool-server {str(path)!r} is neither a URL nor a file that can be read "
            f"({error.strerror})."
        ) from None
    try:
        raw: Any = (
            tomllib.loads(data.decode()) if path.suffix.lower() == ".toml" else json.loads(data)
        )
    except ValueError as error:
        raise ConfigError(
            f"{path} is not valid {'TOML' if path.suffix.lower() == '.toml' else 'JSON'}: {error}."
        ) from None
    try:
        file = msgspec.convert(raw, _File)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f'{path} does not have the form {{"mcpServers": {{"label": {{...}}}}}}: {error}.'
        ) from None
    for label, entry in file.servers.items():
        if not entry.disabled:
            yield _of_entry(label, entry, path)


def _of_entry(label: str, entry: _Entry, path: Path) -> McpServerSpec:
    what = f"The server {label!r} of {path}"
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"{what} must be called by letters, digits, dots, - and _ only.")
    if (entry.command is None) == (entry.url is None):
        raise ConfigError(f'{what} needs a "command" or a "url", and not both.')
    if not entry.timeout > 0:
        raise ConfigError(f'{what} needs a "timeout" above 0 seconds.')
    transport = _TRANSPORTS.get(entry.type or ("stdio" if entry.url is None else "http"))
    if transport is None or (transport == "stdio") != (entry.url is None):
        raise ConfigError(
            f'{what} has the "type" {entry.type!r}; "http" and "sse" go with a "url", "stdio" '
            'goes with a "command".'
        )
    allowed = None if entry.allowed_tools is None else tuple(entry.allowed_tools)
    if entry.command is not None:
        return McpServerSpec(
            label,
            "stdio",
            command=entry.command,
            args=tuple(entry.args),
            env={name: _expanded(value, what) for name, value in entry.env.items()},
            cwd=entry.cwd,
            timeout=entry.timeout,
            allowed_tools=allowed,
        )
    assert entry.url is not None
    found, _ = _of_url(_expanded(entry.url, what))
    return McpServerSpec(
        label,
        transport if entry.type is not None else found.transport,
        url=found.url,
        headers={name: _expanded(value, what) for name, value in entry.headers.items()},
        timeout=entry.timeout,
        allowed_tools=allowed,
    )


def _expanded(text: str, what: str) -> str:
    """The text with `${NAME}` replaced by the environment's variables."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None:
            raise ConfigError(f"{what} uses ${{{match[1]}}}, which is not set; export {match[1]}.")
        return found

    return _VARIABLE.sub(value, text)
