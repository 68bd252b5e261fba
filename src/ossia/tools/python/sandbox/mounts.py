"""What the code sees of the file system: a small one in memory, and views of libraries."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import linux

WORK_FOLDER = "/mnt/data"
_PLACE = "/tmp"  # where the new root is put together; any folder that exists everywhere
_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_SCRATCH = ("/tmp", "/dev/shm", WORK_FOLDER)
_PLAIN = linux.MS_NOSUID | linux.MS_NODEV
_LIBRARY = _PLAIN | linux.MS_RDONLY
_DEVICE = linux.MS_NOSUID | linux.MS_NOEXEC
_FEW_FILES = "size=256k,nr_inodes=512,mode=755"


@dataclass(frozen=True, slots=True)
class View:
    """What is visible, besides devices and scratch folders."""

    shown: Mapping[str, str]  # where it is seen: the server's file or folder
    hidden: Sequence[str]  # folders inside of these that are seen empty
    files: Mapping[str, str]  # small files made for it: text by path
    scratch: int  # bytes of all that the code writes


def build_root(view: View) -> None:
    """Make the view the root of this mount namespace. `/proc` is that of this process's pids.

    Raises:
        OSError: the kernel refuses a mount; `filename` says which.
    """
    _mount("", "/", linux.MS_REC | linux.MS_PRIVATE)
    # Descriptors first: the new root may cover the place that a source lies in.
    trees = {place: _copy(source, _LIBRARY) for place, source in view.shown.items()}
    for link in _LINKS:
        if os.path.isdir(link) and not os.path.islink(link):
            trees[link] = _copy(link, _LIBRARY)
    links = {link: os.readlink(link) for link in _LINKS if os.path.islink(link)}
    devices = {device: _copy(device, _DEVICE) for device in _DEVICES}

    _mount("tmpfs", _PLACE, _PLAIN, _FEW_FILES)
    for link, target in links.items():
        os.symlink(target, _PLACE + link)
    # Outer folders before those inside of them.
    for place in sorted(trees | devices, key=lambda path: path.count("/")):
        tree = trees[place] if place in trees else devices[place]
        _make_place(_PLACE + place, folder=stat.S_ISDIR(os.fstat(tree).st_mode))
        linux.attach(tree, _PLACE + place)
    for folder in view.hidden:
        if os.path.isdir(_PLACE + folder):
            _mount("tmpfs", _PLACE + folder, _LIBRARY, "size=4k,mode=755")
    for path, text in view.files.items():
        os.makedirs(os.path.dirname(_PLACE + path), exist_ok=True)
        with open(_PLACE + path, "w", encoding="utf-8") as file:
            file.write(text)
    os.symlink("/proc/self/fd", _PLACE + "/dev/fd")
    _make_scratch(view.scratch)
    os.mkdir(_PLACE + "/proc")
    # Of /proc only the processes, not what the kernel tells of the machine.
    _mount("proc", _PLACE + "/proc", _PLAIN | linux.MS_NOEXEC, "subset=pid")
    linux.make_root(_PLACE)
    _mount("", "/", _LIBRARY | linux.MS_REMOUNT | linux.MS_BIND)


def _make_scratch(size: int) -> None:
    """Folders to write in, all of one file system, so that the limit holds for their sum."""
    store = _PLACE + "/scratch"
    os.mkdir(store)
    inodes = max(1024, size >> 14)
    _mount("tmpfs", store, _PLAIN, f"size={size},nr_inodes={inodes},mode=755")
    for number, place in enumerate(_SCRATCH):
        folder = f"{store}/{number}"
        os.mkdir(folder)
        os.chmod(folder, 0o1777)
        os.makedirs(_PLACE + place, exist_ok=True)
        linux.attach(_copy(folder, _PLAIN), _PLACE + place)
    linux.unmount(store)
    os.rmdir(store)


def _make_place(path: str, *, folder: bool) -> None:
    if folder:
        os.makedirs(path, exist_ok=True)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _mount(kind: str, target: str, flags: int, options: str = "") -> None:
    try:
        linux.mount(kind, target, flags, options)
    except OSError as error:
        raise OSError(error.errno, error.strerror, kind or target) from None


def _copy(source: str, flags: int) -> int:
    try:
        return linux.copy_of_tree(source, flags)
    except OSError as error:
        raise OSError(error.errno, error.strerror, source) from None
