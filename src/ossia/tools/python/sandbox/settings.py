"""What the server tells the launcher of one session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .mounts import View


@dataclass(frozen=True, slots=True)
class Settings:
    """A session, from its start to its end."""

    view: View
    command: Sequence[str]  # that starts the driver, as it is seen inside
    memory: int  # bytes, for each process and for all together
    file_size: int  # bytes of one file
    grace: float  # seconds between being interrupted and being killed


def to_message(settings: Settings) -> dict[str, Any]:
    """As JSON."""
    return asdict(settings)


def from_message(message: Mapping[str, Any]) -> Settings:
    """Back from JSON."""
    values = dict(message)
    return Settings(view=View(**values.pop("view")), **values)
