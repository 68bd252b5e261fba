from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ossia.cli.generate import read_prompts
from ossia.errors import ConfigError, StartupError

from .conftest import Run, Terminal

ENGINE = ("--load-format", "dummy", "--num-threads", "1")


def test_every_prompt_is_answered_in_order(ossia: Run, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("two\n\nthree\n")
    result = ossia(
        *("generate", tiny_model, *ENGINE, "--prompt", "one", "--prompts-file", file),
        *("--max-tokens", "7", "--temperature", "0", "--json"),
    )
    assert result.returncode == 0, result.stderr
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["prompt"] for record in records] == ["one", "two", "three"]
    for record in records:
        assert record["finish_reason"] == "length"
        assert record["usage"]["completion_tokens"] == 7
        assert record["usage"]["prompt_tokens"] > 30  # the chat format is around the prompt
        assert record["error"] is None


def test_a_raw_prompt_is_continued_without_any_format(ossia_here: Run, tiny_model: Path) -> None:
    command = ("generate", tiny_model, *ENGINE, "--raw", "--prompt", "one two", "--max-tokens", "5")
    record = json.loads(ossia_here(*command, "--json").stdout)
    assert record["usage"]["prompt_tokens"] == 2
    assert record["usage"]["completion_tokens"] == 5


def test_a_terminal_shows_a_progress_bar(
    terminal: Callable[..., Terminal], tiny_model: Path
) -> None:
    program = terminal(
        *("-m", "ossia.cli", "generate", tiny_model, *ENGINE, "--raw", "--prompt", "one"),
        *("--max-tokens", "5"),
    )
    program.expect("1/1")
    assert program.wait() == 0


def test_prompts_can_be_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a\\nb", "other": 1}\n\n{"prompt": "c"}\n')
    assert read_prompts(["first"], file) == ["first", "a\nb", "c"]


@pytest.mark.parametrize("line", ["not json", "[]", '{"text": "a"}', '{"prompt": 1}'])
def test_a_line_that_is_no_prompt_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(StartupError, match=r"prompts\.jsonl, line 2: "):
        read_prompts([], file)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StartupError, match="it is not UTF-8 text"):
        read_prompts([], file)


def test_no_prompt_at_all_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="nothing to answer"):
        read_prompts([], file)
