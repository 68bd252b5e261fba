"""The result of one look at the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from ossia.errors import OssiaError

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `fail` means that Ossia cannot serve."""

    name: str
    status: Status
    detail: str


def guarded(name: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """What `look` finds; an exception becomes a failed check, since a doctor must not collapse."""
    try:
        yield from look()
    except OssiaError as error:
        yield Check(name, "fail", error.message)
    except Exception as error:
        yield Check(name, "fail", f"{type(error).__name__}: {error}")
