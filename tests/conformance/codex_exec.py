"""The Codex command line (npm package @openai/codex) against a running server.

    python tests/conformance/codex_exec.py http://127.0.0.1:8000 demo PATH_OF_CODEX

Prints one JSON line for each check and exits 1 when one failed. Codex gets a home and an empty
folder of its own, may only read, and has no retries, so that a broken stream is a failure. It
cannot be told which tool the model must call; so a check says whether a command was run but does
not demand it. Its own instructions and tools are 7,300 tokens, in which the demo model loses its
way and may talk for minutes; so all checks but one give it short instructions instead.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SECONDS = 300  # for one run of codex, on a busy machine
CONFIGURATION = """\
model = "{model}"
model_provider = "ossia"
model_context_window = 65536

[model_providers.ossia]
name = "Ossia"
base_url = "{base_url}/v1"
wire_api = "responses"
env_key = "OSSIA_KEY"
request_max_retries = 0
stream_max_retries = 0
"""
SHORT = (
    *("-c", "features.multi_agent=false", "-c", "features.goals=false"),
    *("-c", 'web_search="disabled"', "-c", 'model_instructions_file="short.md"'),
)
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


class Codex:
    """Codex with a home of its own."""

    def __init__(self, program: str, base_url: str, model: str, folder: Path) -> None:
        self._program = program
        self._work = folder / "work"
        self._home = folder / "home"
        self._work.mkdir()
        self._home.mkdir()
        configuration = CONFIGURATION.format(model=model, base_url=base_url)
        (self._home / "config.toml").write_text(configuration)
        (self._work / "short.md").write_text("You are a helpful assistant.")
        self.schema = folder / "schema.json"
        self.schema.write_text(json.dumps(SCHEMA))

    def run(self, *arguments: str) -> list[dict[str, Any]]:
        """Events of one `codex exec`; raises AssertionError if its turn failed."""
        done = subprocess.run(
            [self._program, "exec", "--json", "--skip-git-repo-check", *arguments],
            cwd=self._work,
            env=os.environ | {"CODEX_HOME": str(self._home), "OSSIA_KEY": "unused"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        bad = [event for event in events if event["type"] in ("error", "turn.failed")]
        assert not bad, bad
        assert done.returncode == 0, done.stderr[-900:]
        assert events, done.stderr[-900:]
        assert events[-1]["type"] == "turn.completed", events[-1]
        assert events[-1]["usage"]["input_tokens"] > 500, events[-1]
        return events


def items(events: Sequence[Mapping[str, Any]], kind: str) -> list[Mapping[str, Any]]:
    done = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item for item in done if item["type"] == kind]


def summary(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    messages = items(events, "agent_message")
    assert messages, events
    assert messages[-1]["text"], messages
    return {
        "answer": messages[-1]["text"],
        "commands": [item["command"] for item in items(events, "command_execution")],
        "usage": events[-1]["usage"],
    }


def whole_instructions(codex: Codex) -> Mapping[str, Any]:
    got = summary(codex.run("-s", "read-only", "Hello"))
    assert got["usage"]["input_tokens"] > 5000, got
    return got


def conversation_goes_on(codex: Codex) -> Mapping[str, Any]:
    codex.run("-s", "read-only", *SHORT, "Hello")
    return summary(codex.run("resume", "--last", *SHORT, "Thanks"))


def command(codex: Codex) -> Mapping[str, Any]:
    return summary(codex.run("-s", "read-only", *SHORT, "Run the shell command: echo conformance"))


def thinking_harder(codex: Codex) -> Mapping[str, Any]:
    effort = ("-c", 'model_reasoning_effort="high"', "-c", 'model_reasoning_summary="detailed"')
    return summary(codex.run("-s", "read-only", *SHORT, *effort, "What is 12 + 30?"))


def structured_output(codex: Codex) -> Mapping[str, Any]:
    schema = ("--output-schema", str(codex.schema))
    got = summary(codex.run("-s", "read-only", *SHORT, *schema, "Anna is 30 years old."))
    assert set(json.loads(got["answer"])) == {"name", "age"}, got
    return got


CHECKS = (whole_instructions, conversation_goes_on, command, thinking_harder, structured_output)


def main(base_url: str, model: str, program: str, *wanted: str) -> int:
    """Runs the checks, each with a new home; returns how many failed."""
    chosen = [c for c in CHECKS if not wanted or any(w in c.__name__ for w in wanted)]
    failed = 0
    for check in chosen:
        report: dict[str, Any] = {"check": check.__name__, "passed": True}
        with tempfile.TemporaryDirectory() as folder:
            try:
                codex = Codex(program, base_url.rstrip("/"), model, Path(folder))
                report["got"] = dict(check(codex))
            except (AssertionError, ValueError, subprocess.TimeoutExpired) as error:
                failed += 1
                report |= {"passed": False, "error": repr(error)[:1500]}
        print(json.dumps(report), flush=True)
    print(f"{len(chosen) - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("Give server, model and codex: codex_exec.py http://127.0.0.1:8000 demo codex")
    sys.exit(1 if main(*sys.argv[1:]) else 0)
