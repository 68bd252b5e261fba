"""Where responses are kept if nobody says where."""

from __future__ import annotations

import platformdirs

FILE_NAME = "responses.db"


def default_url() -> str:
    """A SQLite file in the user's data folder (`XDG_DATA_HOME` is heeded); nothing is created."""
    return f"sqlite:///{platformdirs.user_data_path('ossia') / FILE_NAME}"
