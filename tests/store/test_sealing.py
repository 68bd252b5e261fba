"""What is sealed opens with its key for its purpose, unaltered, and in no other way."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossia.errors import ConfigError, StartupError
from ossia.store.sealing import Sealer, SealError

SEALER = Sealer(bytes(range(32)))
URL_SAFE = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")


@given(st.binary(), st.text(st.characters(codec="utf-8")))
def test_what_is_sealed_can_be_opened(data: bytes, purpose: str) -> None:
    sealed = SEALER.seal(data, purpose)
    assert set(sealed) <= URL_SAFE
    assert SEALER.open(sealed, purpose) == data
    assert SEALER.seal(data, purpose) != sealed


@given(st.binary(max_size=50), st.data())
def test_any_other_character_anywhere_is_refused(data: bytes, draw: st.DataObject) -> None:
    sealed = SEALER.seal(data, "reasoning")
    at = draw.draw(st.integers(0, len(sealed) - 1))
    other = draw.draw(st.sampled_from(sorted(URL_SAFE)) | st.characters())
    changed = sealed[:at] + other + sealed[at + 1 :]
    if changed != sealed:
        with pytest.raises(SealError):
            SEALER.open(changed, "reasoning")


@given(st.binary(max_size=50), st.data())
def test_what_is_cut_or_longer_is_refused(data: bytes, draw: st.DataObject) -> None:
    sealed = SEALER.seal(data, "reasoning")
    start = draw.draw(st.integers(0, len(sealed)))
    end = draw.draw(st.integers(0, len(sealed) - 1))
    more = draw.draw(st.text(min_size=1, max_size=4))
    for changed in (sealed[:end], sealed[start + 1 :], sealed + more, more + sealed):
        with pytest.raises(SealError):
            SEALER.open(changed, "reasoning")


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    for sealed in (text, "ossia1." + text):
        with pytest.raises(SealError, match="exactly as it was received"):
            SEALER.open(sealed, "reasoning")


def test_every_way_to_write_the_last_character_but_one_is_refused() -> None:
    """Base64 has bits to spare at its end."""
    for length in range(6):
        sealed = SEALER.seal(os.urandom(length), "")
        opened = []
        for last in sorted(URL_SAFE):
            try:
                SEALER.open(sealed[:-1] + last, "")
            except SealError:
                continue
            opened.append(last)
        assert opened == [sealed[-1]]


def test_another_key_or_purpose_does_not_open() -> None:
    sealed = SEALER.seal(b"thought", "reasoning")
    for sealer, purpose in ((SEALER, "other"), (Sealer(bytes(32)), "reasoning")):
        with pytest.raises(SealError):
            sealer.open(sealed, purpose)


def test_text_gets_smaller_and_noise_hardly_larger() -> None:
    assert len(SEALER.seal(b"I think that " * 1000, "")) < 500
    assert len(SEALER.seal(os.urandom(3000), "")) < 4100


def test_servers_with_one_secret_open_each_others_text() -> None:
    secret = "correct horse battery staple ä\ud800"
    sealed = Sealer.from_secret(secret).seal(b"thought", "reasoning")
    assert Sealer.from_secret(secret).open(sealed, "reasoning") == b"thought"
    with pytest.raises(SealError):
        Sealer.from_secret(secret + ".").open(sealed, "reasoning")
    with pytest.raises(ConfigError, match="at least 16"):
        Sealer.from_secret("short")


def test_a_key_file_is_made_once_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "key"
    sealed = Sealer.from_key_file(path).seal(b"thought", "")
    assert Sealer.from_key_file(path).open(sealed, "") == b"thought"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert list(path.parent.iterdir()) == [path]


def test_processes_that_make_the_file_at_once_have_one_key(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from ossia.store.sealing import Sealer
print("ready", flush=True)
for path in sys.stdin:
    print(Sealer.from_key_file(Path(path.strip())).seal(b"thought", ""), flush=True)
"""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(3)
        ]
        assert [_line(worker) for worker in workers] == ["ready"] * 3
        for number in range(50):
            path = tmp_path / f"key{number}"
            for worker in workers:
                assert worker.stdin is not None
                worker.stdin.write(f"{path}\n")
                worker.stdin.flush()
            for worker in workers:
                assert Sealer.from_key_file(path).open(_line(worker), "") == b"thought"


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return worker.stdout.readline().strip()


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_key_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="damaged"):
        Sealer.from_key_file(path)
    assert path.read_bytes() == content


def test_a_key_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "key"):
        with pytest.raises(StartupError, match="may write"):
            Sealer.from_key_file(path)
