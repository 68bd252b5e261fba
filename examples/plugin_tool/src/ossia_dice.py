"""A tool that rolls dice."""

from __future__ import annotations

import secrets
from typing import Annotated

from pydantic import Field

from ossia.tools.functions import function_tool


@function_tool(timeout=5)
def roll(
    sides: Annotated[int, Field(ge=2, le=1000, description="Sides of each die")] = 6,
    count: Annotated[int, Field(ge=1, le=100, description="How many dice")] = 1,
) -> dict[str, object]:
    """Rolls dice, and returns each of them and their sum."""
    dice = [1 + secrets.randbelow(sides) for _ in range(count)]
    return {"dice": dice, "sum": sum(dice)}
