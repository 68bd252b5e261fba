"""Messages on a pipe: four bytes of length, most significant first, then a JSON object."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

HEADER = 4  # bytes
LARGEST = 16 << 20  # bytes; more is no message of ours


def pack(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(HEADER, "big") + body


def body_size(header: bytes) -> int:
    """Bytes that follow a header.

    Raises:
        ValueError: there are too many.
    """
    size = int.from_bytes(header, "big")
    if size > LARGEST:
        raise ValueError(f"a message of {size} bytes")
    return size


def unpack(body: bytes) -> dict[str, Any]:
    """The message of a body.

    Raises:
        ValueError: it is not a JSON object.
    """
    message = json.loads(body)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message


def read(descriptor: int) -> dict[str, Any] | None:
    """The next message; None at the end of the pipe."""
    header = _read(descriptor, HEADER)
    if len(header) < HEADER:
        return None
    size = body_size(header)
    body = _read(descriptor, size)
    return unpack(body) if len(body) == size else None


def write(descriptor: int, message: Mapping[str, Any]) -> None:
    """Send a message; waits while the pipe is full."""
    data = memoryview(pack(message))
    while data:
        data = data[os.write(descriptor, data) :]


def _read(descriptor: int, count: int) -> bytes:
    parts: list[bytes] = []
    while count and (part := os.read(descriptor, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
