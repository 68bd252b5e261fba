"""Writing a checkpoint in either layout from any model that `resolve_model` finds.

Tensors stream from the source to the files one at a time. The checkpoint is written beside its
final place and moved there when it is complete.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ossia.checkpoint.layouts import Layout, StoredTensor, stored_tensors
from ossia.checkpoint.load import open_source
from ossia.checkpoint.parts import Part, model_parts
from ossia.checkpoint.resolve import ModelSource
from ossia.checkpoint.sources import PackingSource, PartSource, UnpackingSource
from ossia.checkpoint.writer import CheckpointWriter, TensorPlan
from ossia.config import (
    ModelConfig,
    model_config_from_original,
    model_config_to_hf,
    model_config_to_original,
)
from ossia.errors import CheckpointError, ConfigError
from ossia.mxfp4 import Mxfp4Tensor, unpack

SHARD_BYTES = 5_000_000_000
_REPORT_EVERY = 1.0  # seconds
_HEADER_SLACK = 1 << 20  # bytes a file may need beyond its data


@dataclass(frozen=True, slots=True)
class QuantisationError:
    """How far MXFP4 values are from the stored ones, computed in float64."""

    relative_rms: float  # root of the summed squared differences over the summed squares
    max_absolute: float  # largest difference of one value
    max_relative: float  # the same, over the largest magnitude in the value's expert


@dataclass(frozen=True, slots=True)
class ConvertReport:
    """What `convert` wrote."""

    path: Path
    layout: Layout
    expert_format: Literal["mxfp4", "bf16"]
    files: int  # with weights
    tensors: int
    total_bytes: int  # of the weights
    seconds: float
    errors: Mapping[str, QuantisationError]  # by "gate_up" and "down"; empty if nothing was packed


def convert(
    source: ModelSource,
    target: Path,
    *,
    layout: Layout = "hf",
    quantise: Literal["mxfp4"] | None = None,
    expert_dtype: Literal["bfloat16"] | None = None,
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    progress: Callable[[str], None] = lambda message: None,
) -> ConvertReport:
    """Write `source` as a checkpoint directory.

    Tensors keep the dtype they are stored in, and their bytes: the layouts only name, split and
    transpose them differently. The exceptions are experts that `quantise` packs or
    `expert_dtype` unpacks.

    Args:
        source: the model to write; random weights are written too.
        target: a directory that does not exist or is empty.
        layout: of the target.
        quantise: "mxfp4" packs bfloat16 experts and reports the error.
        expert_dtype: "bfloat16" unpacks MXFP4 experts.
        shard_bytes: upper bound of one file's data, where no single tensor is larger.
        seed: of random weights.
        progress: told about once a second how far it is.

    Raises:
        ConfigError: options that exclude each other.
        CheckpointError: the source is at fault, the target is not empty, the disk is too small, or
            the layout cannot express the model.
    """
    if quantise and expert_dtype:
        raise ConfigError("Experts are either packed (quantise) or unpacked (expert dtype).")
    if shard_bytes < 1:
        raise ConfigError(f"The size of a shard must be 1 byte or more, not {shard_bytes}.")
    started = time.monotonic()
    target = target.expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} is not empty: name a directory that does not exist yet.")
    errors = _ErrorSums()
    parts = _prepare(open_source(source, seed=seed), quantise, expert_dtype, errors)
    if layout == "original":
        _check_expressible(parts.config)
    plan = list(_plan(parts, layout))
    total = sum(tensor.nbytes for tensor in plan)
    with _work_directory(target, total + _HEADER_SLACK) as work:
        _write_configs(work, layout, parts.config)
        with CheckpointWriter(work, plan, shard_bytes) as writer:
            _write_parts(writer, parts, layout, total, progress)
        files = sum(1 for _ in work.glob("*.safetensors"))
        work.chmod(0o777 & ~_umask())
        work.replace(target)
    return ConvertReport(
        path=target,
        layout=layout,
        expert_format=parts.config.expert_format,
        files=files,
        tensors=len(plan),
        total_bytes=total,
        seconds=time.monotonic() - started,
        errors=errors.result(),
    )


def _prepare(
    parts: PartSource, quantise: str | None, expert_dtype: str | None, errors: _ErrorSums
) -> PartSource:
    if quantise and parts.config.expert_format == "bf16":
        return PackingSource(parts, errors.add)
    if expert_dtype and parts.config.expert_format == "mxfp4":
        return UnpackingSource(parts)
    return parts


def _plan(parts: PartSource, layout: Layout) -> Iterator[TensorPlan]:
    for part in model_parts(parts.config):
        dtype = parts.dtype(part)
        for stored in stored_tensors(layout, parts.config, part):
            yield TensorPlan(stored.name, dtype, stored.shape)


def _write_parts(
    writer: CheckpointWriter,
    parts: PartSource,
    layout: Layout,
    total: int,
    progress: Callable[[str], None],
) -> None:
    written, reported = 0, time.monotonic()
    for part in model_parts(parts.config):
        values = parts.part(part)
        for stored, tensor in _split(values, stored_tensors(layout, parts.config, part)):
            writer.write(stored.name, tensor)
        parts.release(part)
        written += values.nbytes
        if time.monotonic() - reported >= _REPORT_EVERY:
            reported = time.monotonic()
            progress(f"Writing {written / 1e9:.1f} of {total / 1e9:.1f} GB")


def _split(
    values: Tensor, stored: tuple[StoredTensor, ...]
) -> Iterator[tuple[StoredTensor, Tensor]]:
    if stored[0].transposed:
        yield stored[0], values.transpose(-1, -2)
        return
    yield from zip(stored, torch.split(values, [s.shape[0] for s in stored]), strict=True)


def _write_configs(directory: Path, layout: Layout, config: ModelConfig) -> None:
    def write(name: str, content: dict[str, Any]) -> None:
        (directory / name).write_text(json.dumps(content, indent=2) + "\n")

    if layout == "original":
        write("config.json", model_config_to_original(config))
        return
    write("config.json", model_config_to_hf(config))
    generation = {
        "bos_token_id": 199998,
        "do_sample": True,
        "eos_token_id": list(config.eos_token_ids),
        "pad_token_id": config.pad_token_id,
    }
    write("generation_config.json", generation)


def _check_expressible(config: ModelConfig) -> None:
    """The original layout has no field for some of the geometry; what it implies must hold."""
    implied = model_config_from_original(model_config_to_original(config))
    for field in ("layer_types", "rms_norm_eps", "swiglu_alpha", "rope"):
        if getattr(implied, field) != getattr(config, field):
            raise CheckpointError(
                f"The original layout has no field for this model's {field}, "
                f"{getattr(config, field)}: write the hf layout instead."
            )


@contextmanager
def _work_directory(target: Path, needed: int) -> Iterator[Path]:
    """A directory beside `target` on a disk with `needed` bytes free, removed at the end."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise CheckpointError(
                f"{target} needs {needed / 1e9:.1f} GB, but {target.parent} has only "
                f"{free / 1e9:.1f} GB free: free some space or choose another disk."
            )
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or error
        raise CheckpointError(f"{target} cannot be written: {reason}.") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class _ErrorSums:
    """Adds up quantisation errors by kind of expert tensor."""

    def __init__(self) -> None:
        self._squares: dict[str, tuple[float, float]] = {}  # of differences, of values
        self._largest: dict[str, tuple[float, float]] = {}  # absolute, relative

    def add(self, part: Part, expert: Tensor, packed: Mxfp4Tensor) -> None:
        """Compare one expert, [rows, columns], with what it was packed to."""
        truth = expert.to(torch.float64)
        off = unpack(packed, torch.float64) - truth
        differences, values = self._squares.get(part.field, (0.0, 0.0))
        self._squares[part.field] = (
            differences + float(off.square().sum()),
            values + float(truth.square().sum()),
        )
        absolute, size = float(off.abs().max()), float(truth.abs().max())
        before = self._largest.get(part.field, (0.0, 0.0))
        relative = absolute / size if size else 0.0
        self._largest[part.field] = (max(before[0], absolute), max(before[1], relative))

    def result(self) -> dict[str, QuantisationError]:
        """The errors by kind."""
        return {
            field: QuantisationError(
                math.sqrt(differences / values) if values else 0.0, *self._largest[field]
            )
            for field, (differences, values) in self._squares.items()
        }
