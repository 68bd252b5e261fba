"""What each process of the code may use. Limits can be lowered from within, never raised."""

from __future__ import annotations

import os
import resource

PROCESSES = 64  # threads count
_OPEN_FILES = 256
_CPU_SECONDS = 3600
_STACK = 8 << 20  # bytes
_NICENESS = 10  # the server's own work comes first
SLACK = 64 << 20  # bytes that the driver may add to report that there is no memory


def limit_this_process(memory: int, file_size: int) -> None:
    """For this process and all that it starts; `memory` and `file_size` in bytes."""
    os.nice(_NICENESS)
    # Counted for each user namespace by itself (Linux 5.14), so other sessions do not matter.
    _limit(resource.RLIMIT_NPROC, PROCESSES)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_CPU, _CPU_SECONDS)
    _limit(resource.RLIMIT_FSIZE, file_size)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_MEMLOCK, 0)
    _limit(resource.RLIMIT_MSGQUEUE, 0)
    _limit(resource.RLIMIT_STACK, _STACK)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory + SLACK))


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))
