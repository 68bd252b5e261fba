"""Checkpoints by hub name, through huggingface_hub and its cache.

A complete copy in the cache is used without asking the network, so a server starts the same on
a train as in a data centre.
"""

from __future__ import annotations

import errno
import fnmatch
from collections.abc import Callable
from pathlib import Path

from ossia.checkpoint.reader import tensor_files
from ossia.errors import CheckpointError

# Of openai/gpt-oss-20b this leaves out original/ and metal/, which hold the same weights again.
_CONFIG = "config.json"
_WEIGHTS = "model*.safetensors"
_OTHERS = ("generation_config.json", "model.safetensors.index.json")
_TIMEOUT = 15.0  # seconds for the hub to answer at all


def snapshot(name: str, progress: Callable[[str], None]) -> Path:
    """The directory of a hub checkpoint, downloaded if it is not complete in the cache.

    Raises:
        CheckpointError: it is not in the cache and cannot be downloaded; says what to do.
    """
    cached = _cached(name)
    if cached is not None:
        return cached
    progress(f"Downloading {name} from the Hugging Face hub")
    return _download(name, required=(_CONFIG, _WEIGHTS), optional=_OTHERS)


def config_file(name: str) -> Path:
    """The config.json of a hub checkpoint, downloaded by itself if it is not in the cache.

    Raises:
        CheckpointError: it is not in the cache and cannot be downloaded; says what to do.
    """
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, _CONFIG)
    if isinstance(cached, str):
        return Path(cached)
    return _download(name, required=(_CONFIG,)) / _CONFIG


def _cached(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        directory = Path(snapshot_download(name, local_files_only=True))
        tensor_files(directory, "hf")
    except (LocalEntryNotFoundError, CheckpointError):
        return None  # none, or an interrupted download, which downloading again completes
    return directory if (directory / _CONFIG).is_file() else None


def _download(name: str, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    try:
        # Asked for by itself, because snapshot_download hides that the hub cannot be reached
        # where the cache holds some of the files.
        siblings = HfApi().model_info(name, timeout=_TIMEOUT).siblings or []
        files = [sibling.rfilename for sibling in siblings]
        for pattern in required:
            if not fnmatch.filter(files, pattern):
                raise CheckpointError(
                    f"{name} has no {pattern} on the Hugging Face hub: choose a gpt-oss model "
                    "with safetensors files, such as openai/gpt-oss-20b."
                )
        return Path(snapshot_download(name, allow_patterns=[*required, *optional]))
    except CheckpointError:
        raise
    except GatedRepoError as error:
        raise CheckpointError(
            f"{name} is gated: accept its terms on the Hugging Face hub, then `hf auth login`."
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{name} is neither a directory here nor a model on the Hugging Face hub that you "
            "may read: check the name, or `hf auth login` if it is private."
        ) from error
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", "no")
        raise CheckpointError(
            f"The Hugging Face hub answered with status {status} for {name}: try again later, or "
            f"{_elsewhere(name)}."
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CheckpointError(
                f"The disk is full while downloading {name}: free some space, or point HF_HOME "
                "to a larger disk."
            ) from error
        # Which exception a missing network raises depends on the version of huggingface_hub.
        raise CheckpointError(
            f"{name} is neither a directory here nor in the Hugging Face cache, and the hub cannot "
            f"be reached: {_elsewhere(name)}."
        ) from error


def _elsewhere(name: str) -> str:
    short = name.rsplit("/", 1)[-1]
    return (
        f"run `hf download {name} --exclude 'original/*' 'metal/*' --local-dir {short}` "
        "where there is a network, copy the directory here and pass its path, "
        "or try `ossia serve demo`"
    )
