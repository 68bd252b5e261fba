"""What of this machine a sandbox shows: the interpreter's own installation, and numpy."""

from __future__ import annotations

import importlib.util
import os
import site
import sys
import sysconfig
from pathlib import Path

from ossia.tools.python.sandbox import driver
from ossia.tools.python.sandbox.mounts import View
from ossia.tools.python.sandbox.settings import Settings

SCRATCH = 256 << 20  # bytes of all files together
_FILE_SIZE = 128 << 20  # bytes of one file
GRACE = 2.5  # seconds

PACKAGES = ("numpy",)  # of the server's environment, offered to the code where they are installed
_PACKAGES_SEEN = "/opt/packages"
_DRIVER_SEEN = "/opt/driver.py"

# Programs and libraries of the system; not /usr/local, which is the administrator's.
_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libexec", "share")
_OF_ETC = ("/etc/ld.so.cache", "/etc/alternatives")  # how programs find libraries and each other
_FILES = {
    "/etc/passwd": "nobody:x:65534:65534:nobody:/mnt/data:/bin/sh\n",
    "/etc/group": "nogroup:x:65534:\n",
}


def settings(memory: int) -> Settings:
    """Of sessions whose code may use `memory` bytes."""
    executable = _interpreter()
    source = Path(driver.__file__).read_text(encoding="utf-8")
    return Settings(
        view=View(_shown(), _hidden(), {**_FILES, _DRIVER_SEEN: source}, SCRATCH),
        command=[executable, "-I", "-S", "-X", "utf8", _DRIVER_SEEN, _PACKAGES_SEEN],
        memory=memory,
        file_size=_FILE_SIZE,
        grace=GRACE,
    )


def offered_packages() -> list[str]:
    """Those of `PACKAGES` that are installed here."""
    return [name for name in PACKAGES if _folder_of(name) is not None]


def _interpreter() -> str:
    """The program of the installation itself: that of a virtual environment may be a copy, which
    lies in a folder that is not shown and does not find its library."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = os.path.join(sys.base_prefix, "bin", version)
    return os.path.realpath(own if os.path.exists(own) else sys.executable)


def _shown() -> dict[str, str]:
    """The server's path by the path inside."""
    folders = [f"/usr/{name}" for name in _SYSTEM]
    for prefix in {sys.base_prefix, os.path.realpath(sys.base_prefix)} - {"/usr"}:
        folders += [os.path.join(prefix, name) for name in ("bin", "lib", "lib64")]
    shown = {path: path for path in (*folders, *_OF_ETC) if os.path.exists(path)}
    for name in PACKAGES:
        folder = _folder_of(name)
        for part in (folder, folder and f"{folder}.libs"):  # the latter as wheels have it
            if part and os.path.isdir(part):
                shown[f"{_PACKAGES_SEEN}/{os.path.basename(part)}"] = part
    return shown


def _hidden() -> list[str]:
    """Folders of packages, the server's and the system's, wherever they lie in what is shown."""
    standard = [os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")]
    needed = [*standard, *(os.path.join(path, "lib-dynload") for path in standard)]
    folders = {*sys.path, *site.getsitepackages(), *site.getsitepackages([sys.base_prefix, "/usr"])}
    folders |= {"/usr/lib/python3/dist-packages", str(Path(__file__).parents[2])}
    if sys.prefix != sys.base_prefix:
        folders.add(sys.prefix)
    return sorted(
        path
        for path in map(os.path.abspath, filter(None, folders))
        if not any(_inside(other, path) for other in needed)
    )


def _inside(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _folder_of(package: str) -> str | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(spec.submodule_search_locations), None)
