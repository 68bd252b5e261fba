"""Reading a message from a terminal, line editing and multi-line paste included."""

from __future__ import annotations

import contextlib
import os
import select
import sys

_PASTE_GAP = 0.03  # seconds; the lines of a paste follow each other faster than anybody types


def read_message(prompt: str) -> str:
    """One message from stdin, a terminal; lines that are already waiting belong to it.

    Most terminals mark a paste, and readline takes it as one line. Where either does not, the
    lines of a paste arrive together.

    Raises:
        EOFError: Ctrl-D on an empty line.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() editing and history)
    message = f"{input(prompt)}\n".encode()
    terminal = sys.stdin.fileno()
    while select.select([terminal], [], [], _PASTE_GAP)[0]:
        # Not through sys.stdin, whose buffer would hide what is left from select.
        more = os.read(terminal, 65536)
        if not more:
            break
        message += more
    return message.decode(errors="replace").strip("\n")
