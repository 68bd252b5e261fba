"""Ids in the form of OpenAI's: a prefix that says what it is, and 24 random bytes."""

from __future__ import annotations

import secrets
from typing import Literal

Prefix = Literal[
    "resp", "conv", "msg", "rs", "fc", "fco", "ctc", "ctco", "mcp", "mcpl", "mcpr", "mcpa", "ci",
    "ws", "cmp", "item",
]  # fmt: skip

_PREFIXES: dict[str, Prefix] = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_call": "mcp",
    "mcp_list_tools": "mcpl",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "code_interpreter_call": "ci",
    "web_search_call": "ws",
    "compaction": "cmp",
}


def new_id(prefix: Prefix) -> str:
    """A new id."""
    return f"{prefix}_{secrets.token_hex(24)}"


def new_item_id(item_type: str) -> str:
    """A new id for an item of this type."""
    return new_id(_PREFIXES.get(item_type, "item"))
