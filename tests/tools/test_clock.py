"""The clock knows time zones by name and by offset."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from ossia.tools.clock import Clock
from ossia.tools.tool import CallContext, ToolError

SUMMER = datetime(2026, 7, 1, 22, 30, 15, 999, tzinfo=UTC)
WINTER = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


def tell(now: datetime, timezone: str | None = None) -> str:
    arguments = {} if timezone is None else {"timezone": timezone}
    return asyncio.run(Clock(lambda: now).call(arguments, CallContext("c"))).text


@pytest.mark.parametrize(
    ("timezone", "told"),
    [
        (None, "Wednesday, 2026-07-01T22:30:15+00:00 (UTC)"),
        ("utc", "Wednesday, 2026-07-01T22:30:15+00:00 (UTC)"),
        ("Z", "Wednesday, 2026-07-01T22:30:15+00:00 (UTC)"),
        ("Europe/Vienna", "Thursday, 2026-07-02T00:30:15+02:00 (Europe/Vienna)"),
        ("america/new york", "Wednesday, 2026-07-01T18:30:15-04:00 (America/New_York)"),
        ("+05:45", "Thursday, 2026-07-02T04:15:15+05:45 (UTC+05:45)"),
        ("-0330", "Wednesday, 2026-07-01T19:00:15-03:30 (UTC-03:30)"),
        ("UTC+2", "Thursday, 2026-07-02T00:30:15+02:00 (UTC+02:00)"),
    ],
)
def test_time_zones(timezone: str | None, told: str) -> None:
    assert tell(SUMMER, timezone) == told


def test_summer_time_ends() -> None:
    assert tell(WINTER, "Europe/Vienna") == "Monday, 2026-11-23T13:00:00+01:00 (Europe/Vienna)"


def test_the_time_is_now() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    told = asyncio.run(Clock().call({}, CallContext("c"))).text
    assert before <= datetime.fromisoformat(told.split(" ")[1]) <= datetime.now(UTC)


@pytest.mark.parametrize(
    ("timezone", "sentence"),
    [
        ("Vienna", "did you mean Europe/Vienna"),
        ("Europe/Wien", 'no time zone "Europe/Wien"; did you mean .*Europe/'),
        ("America/NewYork", "America/New_York"),
        ("§§§", "use a name such as"),
        ("../../etc/passwd", "There is no time zone"),
        ("+25:00", "not below 24 hours"),
    ],
)
def test_an_unknown_zone_names_what_is_near(timezone: str, sentence: str) -> None:
    with pytest.raises(ToolError, match=sentence):
        tell(WINTER, timezone)


def test_without_time_zone_data_it_says_how_to_get_it() -> None:
    program = """
import asyncio, sys
sys.modules["tzdata"] = None
from ossia.tools.clock import Clock
from ossia.tools.tool import CallContext, ToolError
print(asyncio.run(Clock().call({"timezone": "+02:00"}, CallContext("c"))).text)
try:
    asyncio.run(Clock().call({"timezone": "Europe/Vienna"}, CallContext("c")))
except ToolError as error:
    print(error)
"""
    told = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONTZPATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.splitlines()
    assert "+02:00 (UTC+02:00)" in told[0]
    assert "pip install tzdata" in told[1]
