"""What loading a model says on stderr: one moving line on a terminal, nothing in a pipe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def startup_progress() -> Iterator[Callable[[str], None]]:
    """A function that shows a line about the start, until the next one or the end."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True, highlight=False).status("Starting") as status:
        yield lambda text: status.update(escape(text))
