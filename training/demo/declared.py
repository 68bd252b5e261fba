"""A function as a client declares it, and how people ask for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ossia.turn import ToolDefinition
from training.demo.values import Argument, Parameter
from training.demo.words import Source


@dataclass(frozen=True)
class Function:
    """A declared function, and how to ask for it."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    ask: Callable[[Source], tuple[str, list[Argument]]]  # a request and the arguments it means
    result: Callable[[Source, list[Argument]], str]
    topic: str  # what it is about: two functions of one topic are not declared together
    relatives: tuple[str, str] = ("", "")  # verb and noun of a made-up one

    def definition(self) -> ToolDefinition:
        """The declaration, as an API client would send it."""
        schema = None
        if self.parameters:
            schema = {
                "type": "object",
                "properties": {p.name: p.schema() for p in self.parameters},
                "required": [p.name for p in self.parameters if p.required],
            }
        return ToolDefinition(self.name, self.description, schema)


def camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def given(source: Source, parameters: tuple[Parameter, ...]) -> list[Parameter]:
    """Which parameters a request mentions: the required ones and half of the others."""
    return [p for p in parameters if p.required or source.chance(0.5)]
