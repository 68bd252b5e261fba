"""What the parent tells the engine process before there is a socket between them."""

from __future__ import annotations

import msgspec

from ossia.config import EngineConfig


class Launch(msgspec.Struct, frozen=True):
    """First line on the engine process's standard input, as JSON."""

    config: EngineConfig
    commands: str  # ZeroMQ endpoint of ToEngine messages
    results: str  # ZeroMQ endpoint of FromEngine messages
    parent_pid: int
    prepare_grammars: bool = False  # before the first constraint comes
