"""Tells the time in any time zone."""

from __future__ import annotations

import asyncio
import difflib
import re
import zoneinfo
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from ossia.tools.tool import CallContext, Tool, ToolError, ToolOutput

_OFFSET = re.compile(r"(?:UTC|GMT)?([+-])(\d{1,2})(?::?([0-5]\d))?", re.IGNORECASE)
_MAX_OFFSET = timedelta(hours=24)  # of `datetime`, exclusive


def _now() -> datetime:
    return datetime.now(UTC)


class Clock(Tool):
    """The current time, as `Monday, 2026-11-23T14:05:09+01:00 (Europe/Vienna)`."""

    name = "time"
    description = "Returns the current date, weekday and time in a time zone, in ISO 8601."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "timezone": {
                "type": "string",
                "description": "An IANA name such as Europe/Vienna or an offset such as +02:00; "
                "UTC if left out",
            }
        },
        "additionalProperties": False,
    }

    def __init__(self, now: Callable[[], datetime] = _now) -> None:
        """`now` gives the time with its zone."""
        self._now = now

    async def call(self, arguments: Mapping[str, Any], context: CallContext) -> ToolOutput:
        """Raises ToolError for a time zone that is unknown here."""
        name = arguments.get("timezone") or "UTC"
        zone = await asyncio.to_thread(_zone, name)  # reads files
        time = self._now().astimezone(zone)
        return ToolOutput(
            f"{_WEEKDAYS[time.weekday()]}, {time.isoformat(timespec='seconds')} ({zone})"
        )


# `strftime` would name them in the language of the machine.
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _zone(name: str) -> tzinfo:
    name = name.strip()
    if name.upper() in ("UTC", "Z", "GMT"):
        return UTC
    if match := _OFFSET.fullmatch(name):
        return _offset(name, match)
    known = zoneinfo.available_timezones()
    if not known:
        raise ToolError(
            "The server has no time zone data, so that only UTC and offsets such as +02:00 are "
            "known; its administrator can run `pip install tzdata`."
        )
    by_lower_case = {zone.lower(): zone for zone in known}
    exact = by_lower_case.get(name.replace(" ", "_").lower())
    if exact is None:
        raise ToolError(_unknown(name, by_lower_case))
    return zoneinfo.ZoneInfo(exact)


def _offset(name: str, match: re.Match[str]) -> tzinfo:
    sign, hours, minutes = match.groups()
    offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if offset >= _MAX_OFFSET:
        raise ToolError(f'The offset "{name}" is not below 24 hours.')
    return timezone(-offset if sign == "-" else offset)


def _unknown(name: str, by_lower_case: Mapping[str, str]) -> str:
    wanted = name.replace(" ", "_").lower()
    by_city = {zone.rpartition("/")[2]: zone for zone in sorted(by_lower_case)}
    near = [by_city[city] for city in difflib.get_close_matches(wanted, by_city, n=2)]
    near += difflib.get_close_matches(wanted, by_lower_case, n=3)
    names = [by_lower_case[zone] for zone in dict.fromkeys(near)]
    hint = f"did you mean {' or '.join(names)}?" if names else "use a name such as Europe/Vienna."
    return f'There is no time zone "{name}"; {hint}'
