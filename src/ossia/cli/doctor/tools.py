"""What the server would need for its tools and for stored responses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ossia.cli.doctor.check import Check


def python_tool() -> Iterator[Check]:
    """Whether code of the model could be run in a sandbox."""
    from ossia.errors import ConfigError
    from ossia.tools.options import ToolOptions
    from ossia.tools.python import python_tool, sandbox_report

    try:
        python_tool(ToolOptions())
    except ConfigError as error:
        yield Check("python tool", "warn", error.message)
    else:
        yield Check("python tool", "ok", sandbox_report())


def plugins() -> Iterator[Check]:
    """Installed plug-ins, which `--tool NAME` loads."""
    from ossia.tools.plugins import installed_plugins

    found = [f"{name} ({what})" for name, what in installed_plugins().items()]
    yield Check("tool plug-ins", "ok", ", ".join(found) or "none installed")


def responses() -> Iterator[Check]:
    """Where responses are kept if nobody says where."""
    from ossia.store.location import default_url

    folder = Path(default_url().removeprefix("sqlite:///")).parent
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if os.access(existing, os.W_OK):
        yield Check("responses", "ok", f"kept in {folder}")
    else:
        detail = f"{folder} cannot be written; responses would be kept in memory"
        yield Check("responses", "warn", detail)
