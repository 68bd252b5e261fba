"""Common functions and how people ask for them, read from topics_daily.toml and topics_work.toml.

In a request {slot} stands for the value of a parameter, {noun} and {adjective} for any word,
{strange} for one that the model does not know, {few} for a small number, and {more} for the
phrases of optional parameters, which otherwise come last. An option is a line "slot: phrase", with
{v} for the value.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

from training.demo import values, work_values
from training.demo.values import Kind


@dataclass(frozen=True)
class Topic:
    """A common function: words for its name, its parameters and ways to ask for it."""

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    descriptions: tuple[str, ...]
    parameters: tuple[tuple[str, Kind, bool], ...]  # slot in the requests, kind, required
    requests: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # slot and phrase, for optional parameters

    @property
    def name(self) -> str:
        """What the topic is called: its first description."""
        return self.descriptions[0]


def _kind(name: str) -> Kind:
    kind = getattr(work_values, name, None) or getattr(values, name)
    assert isinstance(kind, Kind), name
    return kind


def _read(file: str) -> list[Topic]:
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    topics = []
    for entry in tomllib.loads(text)["topic"]:
        parameters = entry.get("parameters", [])
        options = [line.split(": ", 1) for line in entry.get("options", "").splitlines()]
        topics.append(
            Topic(
                tuple(entry["verbs"].split()),
                tuple(entry["nouns"].split()),
                tuple(entry["descriptions"]),
                tuple((p["slot"], _kind(p["kind"]), not p.get("optional")) for p in parameters),
                tuple(entry["requests"].splitlines()),
                tuple((slot, phrase) for slot, phrase in options),
            )
        )
    return topics


TOPICS = (*_read("topics_daily.toml"), *_read("topics_work.toml"))
