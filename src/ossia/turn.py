"""One form for every API: a conversation up to the point where the model speaks.

Chat Completions, Responses and Messages all become a `Turn`; `harmony/prompt.py` turns it into
token ids. Two requests with equal turns get equal prompts.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal


class ReasoningEffort(StrEnum):
    """What gpt-oss was trained on."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A function that the model may call as `functions.NAME`."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None  # JSON schema of the arguments object
    strict: bool = False
    path: str = ""  # of `parameters` in the request, for errors


@dataclass(frozen=True, slots=True)
class BuiltinTool:
    """A tool that gpt-oss was trained on, called as `name` itself on the `analysis` channel."""

    name: str  # python, or browser.search and the like
    parameters: Mapping[str, Any] | None = None  # JSON schema; None: free text, such as code

    @property
    def namespace(self) -> str:
        """What the system message declares."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Instructions:
    """A system or developer message of the API; harmony joins them into its developer message."""

    text: str


@dataclass(frozen=True, slots=True)
class UserMessage:
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Chain of thought of the assistant (channel `analysis`)."""

    text: str


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """Text of the assistant for the user: an answer (`final`) or a preamble (`commentary`)."""

    text: str
    channel: Literal["final", "commentary"] = "final"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call by the assistant; `arguments` is the text as written: JSON, for python its code."""

    call_id: str
    name: str
    arguments: str
    builtin: bool = False  # of a `BuiltinTool`, else of a function


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the tool answered to the call with the same id."""

    call_id: str
    name: str
    output: str
    builtin: bool = False


@dataclass(frozen=True, slots=True)
class GeneratedTokens:
    """Token ids that the model wrote itself, from after `<|start|>assistant` to the stop token.

    Reused as they were instead of being rendered again, so that the prefix cache hits.
    """

    token_ids: tuple[int, ...]


Item = (
    Instructions
    | UserMessage
    | Reasoning
    | AssistantMessage
    | ToolCall
    | ToolResult
    | GeneratedTokens
)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether the model calls a tool in this turn, and which ones it may."""

    mode: Literal["auto", "required"] = "auto"
    names: tuple[str, ...] | None = None  # of declared functions; None: all of them
    builtins: bool = True  # whether it may call the turn's built-in tools


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What the text of the `final` channel must be."""

    kind: Literal["json_object", "json_schema", "regex", "choice", "lark"]
    schema: Mapping[str, Any] | bool | None = None  # of json_schema
    name: str = ""  # of json_schema, shown to the model
    description: str = ""  # of json_schema, shown to the model
    strict: bool = True  # of json_schema; False leaves out keywords that cannot be enforced
    pattern: str = ""  # of regex (Rust syntax, matches the whole text), or a Lark grammar
    choices: tuple[str, ...] = ()  # of choice


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that the prompt and the turn grammar depend on.

    `date` stands in the system message; whoever builds the turn freezes it per conversation.
    None leaves the line out.
    """

    items: tuple[Item, ...]
    tools: tuple[ToolDefinition, ...] = ()  # that the model is shown
    effort: ReasoningEffort = ReasoningEffort.MEDIUM
    date: datetime.date | None = None
    identity: str = "You are ChatGPT, a large language model trained by OpenAI."
    knowledge_cutoff: str = "2024-06"
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True  # several calls may stand in one turn
    output: OutputFormat | None = None  # None: free text
    builtins: tuple[BuiltinTool, ...] = ()  # shown to the model as well
