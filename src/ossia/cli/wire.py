"""What the command line reads of a streamed answer: chunks of Chat Completions and Completions.

Every field may be missing or null, since other servers than ours can be at the far end.
"""

from __future__ import annotations

from typing import Any

import msgspec


class FunctionDelta(msgspec.Struct, frozen=True):
    """A piece of a function call."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True):
    """A piece of the call number `index` of an answer."""

    index: int = 0
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, frozen=True):
    """What a chunk adds to the message."""

    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class StreamChoice(msgspec.Struct, frozen=True):
    """`delta` in Chat Completions, `text` in Completions."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def has_output(self) -> bool:
        """Whether the model wrote something in this chunk."""
        delta = self.delta
        if delta is None:
            return bool(self.text)
        return bool(delta.content or delta.reasoning or delta.reasoning_content or delta.tool_calls)


class PromptDetails(msgspec.Struct, frozen=True):
    """How much of the prompt came from the prefix cache."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct, frozen=True):
    """Counts of tokens."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class StreamChunk(msgspec.Struct, frozen=True):
    """The data of one server-sent event."""

    choices: list[StreamChoice] | None = None
    usage: Usage | None = None
    error: Any = None


_DECODER = msgspec.json.Decoder(StreamChunk)
_DATA, _DONE = b"data:", b"[DONE]"


def parse_event(line: bytes) -> StreamChunk | None:
    """The chunk in one line of an event stream; None for lines without one.

    Raises:
        ValueError: data that is not a chunk.
    """
    if not line.startswith(_DATA):
        return None
    data = line[len(_DATA) :].strip()
    return None if not data or data == _DONE else _DECODER.decode(data)


def error_message(error: Any) -> str:
    """The sentence in an error object of OpenAI's shape, or the whole of another one."""
    if isinstance(error, dict) and "message" in error:
        return str(error["message"])
    return str(error)
