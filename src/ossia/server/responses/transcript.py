"""Items of a turn as bytes, so that a stored conversation goes on with the very tokens of then."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import msgspec

from ossia.turn import (
    AssistantMessage,
    GeneratedTokens,
    Instructions,
    Item,
    Reasoning,
    ToolCall,
    ToolResult,
    UserMessage,
)

_KINDS: dict[str, type[Any]] = {
    "instructions": Instructions,
    "user": UserMessage,
    "reasoning": Reasoning,
    "assistant": AssistantMessage,
    "call": ToolCall,
    "result": ToolResult,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_TOKENS = "tokens"


def encode_items(items: Iterable[Item]) -> bytes:
    """MessagePack: a list of [kind, field, ...]; token ids are 32-bit little-endian integers."""
    rows: list[list[Any]] = []
    for item in items:
        if isinstance(item, GeneratedTokens):
            rows.append([_TOKENS, _little_endian(array("I", item.token_ids)).tobytes()])
        else:
            values = (getattr(item, field.name) for field in fields(item))
            rows.append([_NAMES[type(item)], *values])
    return msgspec.msgpack.encode(rows)


def decode_items(data: bytes) -> list[Item]:
    """The items of `encode_items`; no bytes are no items."""
    items: list[Item] = []
    for kind, *values in msgspec.msgpack.decode(data) if data else ():
        if kind == _TOKENS:
            tokens = array("I")
            tokens.frombytes(values[0])
            items.append(GeneratedTokens(tuple(_little_endian(tokens))))
        else:
            items.append(_KINDS[kind](*values))
    return items


def _little_endian(tokens: array[int]) -> array[int]:
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens
