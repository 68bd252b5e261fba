"""Weights for the native CPU library: mapped from the cache, or put in order part by part.

The embedding stays a view of the checkpoint, of which a token reads one row. Of all else only the
ordered copy remains: the pages of a part are given back as soon as it is done.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Literal

import psutil
import torch
from torch import Tensor

from ossia.checkpoint.load import open_source
from ossia.checkpoint.native_cache import NativeCache
from ossia.checkpoint.pages_ahead import PagesAhead
from ossia.checkpoint.parts import Part, model_parts
from ossia.checkpoint.resolve import ModelSource
from ossia.checkpoint.rows import expect_rows
from ossia.checkpoint.sources import PackingSource, PartSource
from ossia.config import ModelConfig
from ossia.kernels.native.kernels import NativeKernels
from ossia.kernels.native.matrices import Kind, pack_dense, pack_experts
from ossia.model.native_weights import (
    NativeWeights,
    assemble_native,
    head_tensors,
    matrix_tensors,
)
from ossia.mxfp4 import Mxfp4Tensor

_REPORT_EVERY = 1.0  # seconds
_DENSE = ("qkv", "out")
_OTHER_MEMORY = 2 << 30  # bytes that the system and this process need besides
_BITS = {Kind.INT8: 8.5, Kind.BF16: 16.0}  # of a weight, scale included

Progress = Callable[[str], None]


def load_native(
    source: ModelSource,
    kernels: NativeKernels,
    *,
    dtype: torch.dtype,
    progress: Progress = lambda message: None,
    quantization: Literal["mxfp4"] | None = None,
    seed: int = 0,
) -> NativeWeights:
    """The weights of a model for `NativeBlocks`.

    Args:
        source: what to load, from `resolve_model`.
        kernels: the library, and in which kind it keeps weights outside the experts.
        dtype: of the embedding, and so of the cache of keys and values.
        progress: told about once a second how far loading has come.
        quantization: "mxfp4" packs the experts of a bfloat16 checkpoint while loading.
        seed: of random weights.

    Raises:
        CheckpointError: a file or tensor is missing, damaged, or does not fit config.json.
    """
    parts = open_source(source, seed=seed)
    if quantization == "mxfp4" and parts.config.expert_format == "bf16":
        parts = PackingSource(parts)
    cache = None if source.path is None else NativeCache(source, kernels.dense.name.lower())
    with contextlib.closing(parts):
        embedding = parts.part(_embedding(parts.config)).to(dtype)
        expect_rows(embedding)
        tensors = None if cache is None else cache.read(progress)
        if tensors is None:
            tensors = _put_in_order(source, parts, kernels, progress)
            if cache is not None:
                cache.write_beside(tensors, progress)
    return assemble_native(parts.config, kernels.dense, embedding, tensors)


def native_weight_bytes(config: ModelConfig, dense: Kind, itemsize: int) -> int:
    """Bytes of the weights in memory, with an embedding of `itemsize` bytes a number."""
    sizes = {"embedding": float(itemsize), "blocks": 1.0, "scales": 1.0}

    def size(part: Part) -> float:
        if part.kind == "linear" and part.field != "router":
            return _BITS[dense] / 8
        return sizes.get(part.kind, 4.0)

    return int(sum(math.prod(part.shape) * size(part) for part in model_parts(config)))


def _embedding(config: ModelConfig) -> Part:
    return next(part for part in model_parts(config) if part.field == "embedding")


def _put_in_order(
    source: ModelSource, parts: PartSource, kernels: NativeKernels, progress: Progress
) -> dict[str, Tensor]:
    """All tensors but the embedding; see `model/native_weights.py` for their names."""
    every = [part for part in model_parts(parts.config) if part.field != "embedding"]
    # A checkpoint and its ordered copy are of about the same size.
    size = 2 * native_weight_bytes(parts.config, kernels.dense, 2)
    tight = size > psutil.virtual_memory().total - _OTHER_MEMORY
    tensors: dict[str, Tensor] = {}
    blocks: tuple[Part, Tensor] | None = None  # of the experts whose scales come next
    reported = time.monotonic()
    with PagesAhead(source, every, forget=tight) as ahead:
        for done, part in enumerate(every):
            stored = parts.part(part)
            if part.kind == "blocks":
                blocks = part, stored
                continue
            if part.kind == "scales":
                assert blocks is not None
                packed = pack_experts(kernels.context, Mxfp4Tensor(blocks[1], stored), None)
                tensors.update(matrix_tensors(part.name.removesuffix(".scales"), packed))
                parts.release(blocks[0])
                ahead.done(blocks[0])
                blocks = None
            else:
                tensors.update(_ordered(part, stored, kernels))
            del stored
            parts.release(part)
            ahead.done(part)
            if time.monotonic() - reported >= _REPORT_EVERY:
                reported = time.monotonic()
                progress(f"Putting weights in order: {100 * done // len(every)} %")
    return tensors


def _ordered(part: Part, stored: Tensor, kernels: NativeKernels) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a part which is no part of experts becomes."""
    if part.field in _DENSE:
        packed = pack_dense(kernels.context, stored, kind=kernels.dense)
        yield from matrix_tensors(part.name, packed)
    elif part.field == "lm_head":
        yield from head_tensors(kernels, stored)
    else:
        yield part.name, stored.to(torch.float32, copy=True).contiguous()
