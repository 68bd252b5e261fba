"""`ossia serve` in a process of its own: as a newcomer starts it, or with random weights.

Also a JSON schema validator that is stricter than what most clients use.
"""

from __future__ import annotations

import datetime
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import regex
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing.exceptions import Unresolvable

from ossia.config import ModelConfig, model_config_to_hf

START_SECONDS = 60
Serve = Callable[..., str]
Violation = Callable[[Any, str], str | None]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Starts a server with these arguments, once for each list of them; gives its address."""
    running: dict[tuple[str, ...], tuple[str, subprocess.Popen[bytes]]] = {}

    def start(*arguments: str) -> str:
        if arguments not in running:
            log: Path = tmp_path_factory.mktemp("server") / "log"
            command = [sys.executable, "-m", "ossia.cli", "serve", "--port", "0", "--device", "cpu"]
            with log.open("w") as output:
                process = subprocess.Popen(
                    [*command, *arguments], stdout=output, stderr=subprocess.STDOUT
                )
            running[arguments] = (_url(process, log), process)
        return running[arguments][0]

    yield start
    for _, process in running.values():
        process.send_signal(signal.SIGTERM)
    codes = [process.wait(timeout=30) for _, process in running.values()]
    assert not any(codes)


@pytest.fixture(scope="session")
def demo_url(serve: Serve) -> str:
    """The bundled demo model."""
    return serve()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the geometry of a tiny network, for random weights (--load-format dummy).

    The vocabulary is the real one. Whatever such a network says, it does not mean it: what holds
    for its answers is what the server guarantees.
    """
    directory = tmp_path_factory.mktemp("random")
    config = ModelConfig(
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=32,
        num_experts=2,
        experts_per_token=1,
        intermediate_size=32,
        max_context=16384,
    )
    (directory / "config.json").write_text(json.dumps(model_config_to_hf(config)))
    return directory


@pytest.fixture(scope="session")
def random_url(serve: Serve, random_model: Path) -> str:
    """A server whose model has random weights."""
    return serve(str(random_model), "--load-format", "dummy", "--kv-cache-memory", "64MiB")


@pytest.fixture(scope="session")
def violation() -> Violation:
    """What is wrong with a text that should be JSON of a schema; None where nothing is.

    Drafts are told apart by `$schema`. Formats are checked. Numbers are decimals: 0.3 is a multiple
    of 0.1, and in binary it is not. Patterns may have unicode classes.
    """
    formats = _format_checker()

    def broken_rule(schema: Any, text: str) -> str | None:
        draft = validator_for(schema, jsonschema.Draft202012Validator)
        try:
            draft.check_schema(schema, format_checker=jsonschema.FormatChecker(()))
        except SchemaError as error:
            return f"an invalid schema was accepted: {error.message}"
        exact = jsonschema.validators.extend(
            draft,
            validators={"pattern": _pattern},
            type_checker=draft.TYPE_CHECKER.redefine("integer", _is_integer),
        )
        try:
            value = _exact(text)
        except ValueError as error:
            return f"this is no JSON: {error}"
        validator = exact(_exact(json.dumps(schema)), format_checker=formats)
        try:
            error = next(validator.iter_errors(value), None)
        except (Unresolvable, RecursionError) as fault:
            return f"a schema with a broken reference was accepted: {fault}"
        return None if error is None else f"{error.json_path}: {error.message}"[:300]

    return broken_rule


def _exact(text: str) -> Any:
    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_float=Decimal, parse_constant=no_constant)


def _is_integer(_: object, value: object) -> bool:
    if isinstance(value, Decimal):
        return value == value.to_integral_value()
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not regex.search(pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _format_checker() -> jsonschema.FormatChecker:
    """jsonschema's own checks where they need no further package, and ours for the rest."""
    checker = jsonschema.FormatChecker(("ipv4", "ipv6", "uuid", "regex"))
    checks: dict[str, Callable[[str], object]] = {
        "date": _is_date,
        "time": _is_time,
        "date-time": _is_date_time,
        "duration": _DURATION.fullmatch,
        "hostname": lambda text: len(text) < 254 and _HOSTNAME.fullmatch(text),
        "email": _EMAIL.fullmatch,
        "uri": lambda text: _SCHEME.match(text) and _is_reference(text),
        "uri-reference": _is_reference,
        "json-pointer": _POINTER.fullmatch,
    }

    def register(name: str, check: Callable[[str], object]) -> None:
        checker.checks(name, raises=ValueError)(
            lambda value: not isinstance(value, str) or bool(check(value))
        )

    for name, check in checks.items():
        register(name, check)
    return checker


_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?(Z|z|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"P(?!$)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?(\d+(\.\d+)?S)?)?)")
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOSTNAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_EMAIL = re.compile(r'("([^"\\\x00-\x1f]|\\.)+"|[^\s@"]+)@[^\s@]+')
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_POINTER = re.compile(r"(/([^/~]|~[01])*)*")


def _is_date(text: str) -> bool:
    datetime.date.fromisoformat(text)
    return bool(re.fullmatch(r"\d{4}-\d\d-\d\d", text))


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    # Python's times have no second 60 and six decimals at most.
    text = re.sub(r"^(\d\d:\d\d):60", r"\1:59", re.sub(r"(\.\d{6})\d+", r"\1", text))
    datetime.time.fromisoformat(text.upper())
    return True


def _is_date_time(text: str) -> bool:
    return text[10:11] in ("T", "t") and _is_date(text[:10]) and _is_time(text[11:])


def _is_reference(text: str) -> bool:
    urlsplit(text)
    return not re.search(r"[\s<>\"{}|\\^`]|%(?![0-9A-Fa-f]{2})", text)


def _url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = re.search(r"^Ready in .* at (http://\S+)$", log.read_text(), re.MULTILINE)
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(log.read_text())
