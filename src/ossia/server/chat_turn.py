"""A request of Chat Completions becomes a Turn."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from ossia.errors import InvalidRequest
from ossia.server.chat_messages import conversation_items
from ossia.server.chat_output import output_format
from ossia.server.chat_tools import is_legacy, tools_and_choice
from ossia.server.schema.chat import PromptOptions
from ossia.server.schema.messages import ChatMessage
from ossia.turn import ReasoningEffort, Turn

_EFFORT = {
    "none": ReasoningEffort.LOW,
    "minimal": ReasoningEffort.LOW,
    "low": ReasoningEffort.LOW,
    "medium": ReasoningEffort.MEDIUM,
    "high": ReasoningEffort.HIGH,
    "xhigh": ReasoningEffort.HIGH,
    "max": ReasoningEffort.HIGH,
}


def chat_turn(
    messages: Sequence[ChatMessage], options: PromptOptions, date: datetime.date | None
) -> Turn:
    """The conversation up to where the model speaks; `date` stands in the system message.

    Raises:
        InvalidRequest: a message, tool or format that gpt-oss has no place for; `param` is its
            path.
    """
    if not messages:
        raise InvalidRequest("messages is empty; send at least one message.", param="messages")
    tools, choice = tools_and_choice(options)
    # The older form has room for one call in a message.
    parallel = options.parallel_tool_calls is not False and not is_legacy(options)
    return Turn(
        items=tuple(conversation_items(messages)),
        tools=tools,
        effort=effort_of(options.reasoning_effort),
        date=date,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        output=output_format(options.response_format),
    )


def effort_of(wanted: str | None) -> ReasoningEffort:
    """What gpt-oss calls an effort of OpenAI's API; medium is the default."""
    return _EFFORT[wanted or "medium"]
