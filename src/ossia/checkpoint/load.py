"""Weights for the network from whatever `resolve_model` found."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ossia.checkpoint.parts import Part, Place, assemble, model_parts
from ossia.checkpoint.reader import CheckpointReader
from ossia.checkpoint.resolve import ModelSource
from ossia.checkpoint.rows import expect_rows
from ossia.checkpoint.sources import DummySource, PackingSource, PartSource
from ossia.model.weights import ModelWeights

_REPORT_EVERY = 1.0  # seconds
_CPU = torch.device("cpu")


def open_source(source: ModelSource, *, seed: int = 0, device: torch.device = _CPU) -> PartSource:
    """Open a model without reading its data; a checkpoint is checked completely.

    Args:
        source: what to open, from `resolve_model`.
        seed: of random weights.
        device: where parts will be delivered. Off the CPU each can be had once, and `close` ends
            the reading ahead.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, or does not fit config.json.
    """
    if source.layout == "dummy":
        return DummySource(source.config, seed, device)
    assert source.path is not None
    return CheckpointReader(source.path, source.layout, source.config, device)


def load_weights(
    source: ModelSource,
    *,
    dtype: torch.dtype,
    device: torch.device,
    progress: Callable[[str], None] = lambda message: None,
    quantization: Literal["mxfp4"] | None = None,
    seed: int = 0,
    place: Place | None = None,
) -> ModelWeights:
    """The weights of a model, everything but packed experts in `dtype` on `device`.

    On the CPU, tensors stored in `dtype` and packed experts are views of mapped files, read from
    the disk when first used; unpacked experts of a Hugging Face checkpoint are transposed views.
    For a GPU, files are read by several threads straight into the tensors' memory there
    (`device_files.py`), and converted and placed on the device, one layer at a time: the most
    memory needed is that of the model, of one layer's experts, and what `place` takes.

    Args:
        source: what to load, from `resolve_model`.
        dtype: of all floating-point weights.
        device: where the weights are wanted.
        progress: told about once a second how far loading has come.
        quantization: "mxfp4" packs the experts of a bfloat16 checkpoint while loading.
        seed: of random weights.
        place: given the number of a layer and its experts on `device` as soon as they are there
            (copies may be under way on the current stream); what it returns becomes the layer's
            `experts`.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, or does not fit config.json.
    """
    parts = open_source(source, seed=seed, device=device)
    if quantization == "mxfp4" and parts.config.expert_format == "bf16":
        parts = PackingSource(parts)
    total = sum(1 for _ in model_parts(parts.config))
    done, reported = 0, time.monotonic()

    def read(part: Part) -> Tensor:
        nonlocal done, reported
        stored = parts.part(part)
        tensor = stored.to(
            device=device, dtype=stored.dtype if stored.dtype == torch.uint8 else dtype
        )
        if tensor is not stored:
            parts.release(part)
        done += 1
        if time.monotonic() - reported >= _REPORT_EVERY:
            reported = time.monotonic()
            progress(f"Loading weights: {100 * done // total} %")
        return tensor

    with contextlib.closing(parts):
        weights = assemble(parts.config, read, place)
    expect_rows(weights.embedding)
    if device.type == "cuda":
        _give_back_what_loading_took(device)
    return weights


def _give_back_what_loading_took(device: torch.device) -> None:
    """Free the memory of layers as they were read, and the page-locked buffers, for the KV cache
    and the system."""
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    empty_host_cache = getattr(torch._C, "_host_emptyCache", None)  # not in every build
    if empty_host_cache is not None:
        empty_host_cache()
