"""One question and what the assistant does about it: any number of calls, then an answer."""

from __future__ import annotations

from dataclasses import dataclass

from ossia.turn import ReasoningEffort, ToolDefinition

LOW, MEDIUM, HIGH = ReasoningEffort.LOW, ReasoningEffort.MEDIUM, ReasoningEffort.HIGH


@dataclass(frozen=True)
class Call:
    """A function call: the thought before it, the arguments as JSON text, what the tool says."""

    reasoning: str
    name: str
    arguments: str
    result: str


@dataclass(frozen=True)
class Answer:
    """The final message and the thought before it ("" for none)."""

    reasoning: str
    text: str


@dataclass(frozen=True)
class Exchange:
    """A user message (None where an earlier exchange asked already) and the reaction to it."""

    skill: str
    user: str
    calls: tuple[Call, ...]
    answer: Answer
    tools: tuple[ToolDefinition, ...] = ()
    instructions: str = ""


def by_effort(effort: ReasoningEffort, low: str, medium: str, high: str) -> str:
    """The thought for an effort; each level says more than the one before."""
    return {LOW: low, MEDIUM: medium, HIGH: f"{medium} {high}".strip()}[effort]
