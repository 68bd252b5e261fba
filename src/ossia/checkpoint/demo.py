"""The demo model that ships with the package, expanded once into the user's cache.

The package stores embedding rows only for token ids that the demo model knows: the two
vocabulary tensors have [stored + 1, hidden] rows, `token_ids` says which ids the first rows are,
and the last row stands for every other id. The expansion is a normal Hugging Face directory,
named by a hash of the packed files, so another release never meets an expansion that is not its
own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import platformdirs
import torch
from torch import Tensor

from ossia.checkpoint.tensor_files import TensorFiles
from ossia.checkpoint.writer import CheckpointWriter, TensorPlan
from ossia.errors import CheckpointError

CACHE_VARIABLE = "OSSIA_CACHE_DIR"
_VOCABULARY_TENSORS = ("model.embed_tokens.weight", "lm_head.weight")
_STAMP = "expanded.json"  # size and time of the files as they were written
_STALE = 3600.0  # seconds after which an unfinished expansion is left over from a killed process


def packed_directory() -> Path:
    """Where the package keeps the packed demo model."""
    return Path(str(resources.files("ossia"))) / "demo"


def cache_directory() -> Path:
    """The user's cache, or where OSSIA_CACHE_DIR points."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(platformdirs.user_cache_dir("ossia", appauthor=False))


def expand(
    progress: Callable[[str], None] = lambda message: None,
    *,
    packed: Path | None = None,
    cache: Path | None = None,
) -> Path:
    """The demo model as a Hugging Face directory, expanded if that was not done before.

    Several processes may call this at once: each expands into a directory of its own, the first
    to finish moves it into place.

    Args:
        progress: told if there is something to do.
        packed: the packed files, if not those of the package.
        cache: where expansions are kept, if not in `cache_directory()`.

    Raises:
        CheckpointError: the package lacks the files, or the cache cannot be written.
    """
    packed = packed or packed_directory()
    cache = cache or cache_directory()
    for name in ("config.json", "model.safetensors"):
        if not (packed / name).is_file():
            raise CheckpointError(
                f"{packed / name} is missing: install the package again to get the demo model."
            )
    target = cache / f"demo-{_content_hash(packed)}"
    if _is_intact(target):
        return target
    progress(f"Expanding the demo model into {target}")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(cache)
        work = Path(tempfile.mkdtemp(prefix="demo-", suffix=".tmp", dir=cache))
        try:
            _write_expansion(packed, work)
            _move_into_place(work, target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise CheckpointError(_not_writable(cache, error)) from error
    return target


def _content_hash(packed: Path) -> str:
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update((packed / name).read_bytes())
    return digest.hexdigest()[:16]


def _is_intact(directory: Path) -> bool:
    """Whether the files are those that were written: a damaged file has another size or time."""
    try:
        stamp = json.loads((directory / _STAMP).read_bytes())
        return bool(stamp) and stamp == _stamp(directory, stamp)
    except (OSError, ValueError, TypeError):
        return False


def _stamp(directory: Path, names: list[str]) -> dict[str, list[int]]:
    stats = {name: (directory / name).stat() for name in names}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _write_expansion(packed: Path, work: Path) -> None:
    config = (packed / "config.json").read_bytes()
    vocab_size = int(json.loads(config)["vocab_size"])
    files = TensorFiles([packed / "model.safetensors"])
    tensors = {name: files.tensor(name) for name in files.entries}
    missing = {"token_ids", *_VOCABULARY_TENSORS} - tensors.keys()
    if missing:
        raise CheckpointError(
            f"{packed / 'model.safetensors'} has no tensor {min(missing)}: "
            "install the package again to get the demo model."
        )
    rows = _rows(tensors.pop("token_ids"), vocab_size)
    plan = [
        TensorPlan(
            name,
            tensor.dtype,
            (vocab_size, *tensor.shape[1:]) if name in _VOCABULARY_TENSORS else tuple(tensor.shape),
        )
        for name, tensor in tensors.items()
    ]
    with CheckpointWriter(work, plan, shard_bytes=1 << 62) as writer:
        for name, tensor in tensors.items():
            expanded = name in _VOCABULARY_TENSORS
            writer.write(name, tensor.index_select(0, rows) if expanded else tensor)
    (work / "config.json").write_bytes(config)
    generation = packed / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, work / generation.name)
    stamp = _stamp(work, sorted(p.name for p in work.iterdir()))
    (work / _STAMP).write_text(json.dumps(stamp, indent=2) + "\n")


def _rows(token_ids: Tensor, vocab_size: int) -> Tensor:
    """For each id of the vocabulary, its row in the packed tensors: int64 [vocab]."""
    stored = token_ids.numel()
    rows = torch.full((vocab_size,), stored, dtype=torch.int64)
    rows[token_ids.long()] = torch.arange(stored)
    return rows


def _move_into_place(work: Path, target: Path) -> None:
    """Rename `work` to `target`, unless another process was faster."""
    for _ in range(10):
        try:
            work.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES):
                raise
        if _is_intact(target):
            return
        # Moved away rather than deleted in place: a process may be about to open its files.
        broken = Path(tempfile.mkdtemp(prefix="demo-", suffix=".tmp", dir=target.parent))
        try:
            target.rename(broken / "broken")
        except FileNotFoundError:
            pass  # another process moved it away first
        finally:
            shutil.rmtree(broken, ignore_errors=True)
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(target))


def _remove_leftovers(cache: Path) -> None:
    for directory in cache.glob("demo-*.tmp"):
        try:
            if time.time() - directory.stat().st_mtime > _STALE:
                shutil.rmtree(directory, ignore_errors=True)
        except FileNotFoundError:
            continue  # finished by the process that made it


def _not_writable(cache: Path, error: OSError) -> str:
    return (
        f"The demo model cannot be expanded into {cache} ({error.strerror or error}): "
        f"set {CACHE_VARIABLE} to a directory that is writable and has 300 MB free."
    )
