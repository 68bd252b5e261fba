"""A tool that the server runs itself: a name, a schema, and a coroutine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

DEFAULT_TIMEOUT = 30.0  # seconds

# Tools that gpt-oss was trained on; they stand in the system message and are called on `analysis`.
BuiltinNamespace = Literal["browser", "python"]


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a call gave."""

    text: str  # what the model is told
    is_error: bool = False
    details: Mapping[str, Any] = field(default_factory=dict)  # JSON, for the API's own items


class ToolError(Exception):
    """The call failed; the sentence goes to the model as the tool's answer."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call knows besides its arguments."""

    session: str  # the same for all calls of a conversation; stateful tools keep their state by it
    progress: Callable[[str], None] = lambda text: None  # partial output, for whoever streams


class Tool(ABC):
    """One tool. An instance serves many conversations at once, in one event loop.

    Attributes:
        name: what the model calls it: 1 to 128 letters, digits, dots, hyphens or underscores.
        description: what the model is told about it.
        parameters: JSON schema of its arguments, an object.
        timeout: seconds a call may take.
        builtin: the namespace, of a tool that gpt-oss was trained on; its calls are addressed to
            `name` itself, others to `functions.name`.
        server_label: what an API calls the server that the tool belongs to.
        needs_approval: whether a call waits until its user has said yes.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any]
    timeout: float = DEFAULT_TIMEOUT
    builtin: BuiltinNamespace | None = None
    server_label: str = "ossia"
    needs_approval: bool = False

    @abstractmethod
    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Run it. Cancelled when the time is over or the request is.

        Raises:
            ToolError: it failed in a way that the model should know of.
        """

    async def close(self) -> None:  # noqa: B027  (most tools hold nothing)
        """Give back what it holds; the server stops."""
