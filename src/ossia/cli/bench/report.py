"""Where the figures of a benchmark go: a table for people, a JSON file for programs."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ossia import __version__
from ossia.errors import StartupError

_PIPE_WIDTH = 120  # columns, where there is no terminal to ask


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print figures on stdout, aligned right; the title is a line of its own."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PIPE_WIDTH)
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(title, style="bold", markup=False, soft_wrap=True)
    console.print(table)


def check_writable(path: Path | None) -> None:
    """Refuse a file that cannot be written, before the time for measuring is spent.

    Raises:
        StartupError: its directory is missing or read-only.
    """
    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise StartupError(f"--json {path} cannot be written: {error.strerror}.") from error


def write_json(path: Path | None, benchmark: str, figures: Mapping[str, Any]) -> None:
    """Write `figures` with what is needed to compare them later; NaN becomes null."""
    if path is None:
        return
    document = {
        "benchmark": benchmark,
        "ossia": __version__,
        "python": platform.python_version(),
        "machine": platform.platform(),
        **figures,
    }
    path.write_text(json.dumps(_without_nan(document), indent=2) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    match value:
        case float() if math.isnan(value):
            return None
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_nan(item) for item in value]
        case _:
            return value
