"""How much memory the processes of a sandbox use together, read from its /proc."""

from __future__ import annotations

import os
from collections.abc import Callable

_PAGE = os.sysconf("SC_PAGE_SIZE")


def memory_in_use(limit: int) -> int:
    """Bytes of all processes but this one. Exact only where it could be above `limit`.

    What processes share is counted once for each at first, which is cheap to ask (statm); only
    if that is above the limit, their proportional share (smaps_rollup) decides.
    """
    rough = _sum(_resident)
    return rough if rough <= limit else _sum(_proportional)


def _sum(measure: Callable[[str], int]) -> int:
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit() and name != "1":
            try:
                total += measure(name)
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
    return total


def _resident(pid: str) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * _PAGE


def _proportional(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except PermissionError:
        return _resident(pid)  # it hides itself
    return 0
