"""Attention of prompts by other people's FlashAttention kernels: the backend FLASH_ATTN_3.

gpt-oss needs attention sinks, which most builds of FlashAttention lack: without them the numbers
are wrong, so a build is taken only if its function has an argument for sinks. What is looked for,
in this order, and what the adapters here translate to (see `triton_prefill.attend_prefill` for the
meaning of the arguments):

- FlashAttention 3 from the Hugging Face `kernels` hub, if it is in the local cache already:
  `flash_attn_with_kvcache(..., s_aux=)` or `sinks=`. Nothing is downloaded here.
- `flash-attn-4` (module flash_attn.cute): `flash_attn_varlen_func(..., learnable_sink=)`.
- FlashInfer: `BatchAttentionWithAttentionSinkWrapper`, compiled when it is first used.
- FlashAttention 3 installed as a module (`flash_attn_interface`, `fa3_fwd_interface`).

All of them count positions from a sequence's first page, as the last key is the last query's own.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ossia.model.batch import LayerCache, PagedBatch

# q [tokens, heads, head_dim], cache, step, sinks [heads], scale, window -> like q
AttendPrefill = Callable[[Tensor, LayerCache, PagedBatch, Tensor, float, int | None], Tensor]

HUB_KERNELS = ("vllm-flash-attn3", "sgl-flash-attn3", "flash-attn3")  # of kernels-community
_SINK_ARGUMENTS = ("s_aux", "sinks", "learnable_sink")
_WORKSPACE = 128 << 20  # bytes that FlashInfer plans with


@dataclass(frozen=True, slots=True)
class FlashBackend:
    """An implementation that can be used."""

    name: str
    attend_prefill: AttendPrefill


@dataclass(frozen=True, slots=True)
class FlashCandidate:
    """An implementation that was looked for: either `backend`, or why not."""

    name: str
    backend: FlashBackend | None
    reason: str  # a sentence on why it cannot be used; empty if it can


def find_flash(capability: tuple[int, int] | None) -> FlashBackend | None:
    """The first implementation that can be used, if there is one.

    Args:
        capability: of the CUDA device (`torch.cuda.get_device_capability`), None without one.
    """
    for look in _LOOKS:
        if backend := look(capability).backend:
            return backend
    return None


def flash_candidates(capability: tuple[int, int] | None) -> list[FlashCandidate]:
    """Every implementation that is known, with the reason if it cannot be used."""
    return [look(capability) for look in _LOOKS]


def missing_flash(capability: tuple[int, int] | None) -> str:
    """What to tell someone who asked for FLASH_ATTN_3 where `find_flash` finds none."""
    if capability is None or capability[0] != 9:
        return (
            "--attention-backend FLASH_ATTN_3 needs a Hopper GPU (H100, H200); "
            "use auto, TRITON or TORCH."
        )
    reasons = " ".join(candidate.reason for candidate in flash_candidates(capability))
    return (
        "--attention-backend FLASH_ATTN_3 needs an implementation with attention sinks, and none "
        "is here. Install one (pip install --pre flash-attn-4, or pip install flashinfer-python), "
        f"or use auto or TRITON. {reasons}"
    )


def _look_in_hub_cache(capability: tuple[int, int] | None) -> FlashCandidate:
    name = "FlashAttention 3 of the Hugging Face kernels hub"
    if reason := _not_hopper(name, capability):
        return FlashCandidate(name, None, reason)
    if not _is_installed("kernels"):
        return FlashCandidate(name, None, f"{name}: the package kernels is not installed.")
    reasons = []
    for kernel in HUB_KERNELS:
        path = _cached(f"kernels-community/{kernel}")
        if path is None:
            continue
        try:
            module = _load_hub_kernel(path, kernel.replace("-", "_"))
            return _from_kvcache(f"kernels-community/{kernel}", module)
        except Exception as error:  # a build for another torch, a missing library, ...
            reasons.append(_sentence(f"kernels-community/{kernel}", error))
    missing = (
        f"{name}: not in the local cache (get_kernel('kernels-community/{HUB_KERNELS[0]}', "
        "version=1) of the package kernels fetches it)."
    )
    return FlashCandidate(name, None, " ".join(reasons) or missing)


def _cached(repository: str) -> Path | None:
    """The newest copy of a kernel in the local cache. Asks no network."""
    from huggingface_hub.constants import HF_HUB_CACHE

    root = Path(os.environ.get("KERNELS_CACHE") or HF_HUB_CACHE)
    folder = repository.replace("/", "--")
    copies = [
        copy
        for kind in ("kernels", "models")  # what the hub calls them, and used to
        for copy in (root / f"{kind}--{folder}" / "snapshots").glob("*")
        if (copy / "build").is_dir()
    ]
    return max(copies, key=lambda copy: copy.stat().st_mtime, default=None)


def _load_hub_kernel(path: Path, module: str) -> Any:
    load = importlib.import_module("kernels").get_local_kernel
    if "package_name" in inspect.signature(load).parameters:  # before kernels 0.12
        return load(path, module)
    return load(path)


def _look_for_flash_4(capability: tuple[int, int] | None) -> FlashCandidate:
    name = "flash-attn-4"
    if reason := _not_hopper(name, capability):
        return FlashCandidate(name, None, reason)
    if not _is_installed("flash_attn.cute"):
        return FlashCandidate(
            name, None, f"{name} is not installed (pip install --pre flash-attn-4)."
        )
    try:
        function = importlib.import_module("flash_attn.cute").flash_attn_varlen_func
        _require(function, "learnable_sink", "page_table", "seqused_k", "cu_seqlens_q")
    except Exception as error:  # whatever its own imports raise
        return FlashCandidate(name, None, _sentence(name, error))
    return _found(name, _flash_4(function))


def _flash_4(function: Callable[..., Any]) -> AttendPrefill:
    def attend(
        q: Tensor,
        cache: LayerCache,
        paged: PagedBatch,
        sinks: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        reach = paged.page_table.shape[1] * cache.keys.shape[1]
        out = function(
            q,
            cache.keys,
            cache.values,
            cu_seqlens_q=paged.query_starts,
            max_seqlen_q=paged.max_query_len,
            max_seqlen_k=min(reach, paged.max_kv_len),
            seqused_k=paged.kv_lens - paged.first_positions,
            page_table=paged.page_table,
            softmax_scale=scale,
            causal=True,
            window_size=(None, None) if window is None else (window - 1, 0),
            learnable_sink=sinks.to(q.dtype),
        )
        return _first(out)

    return attend


def _look_for_flashinfer(capability: tuple[int, int] | None) -> FlashCandidate:
    name = "FlashInfer"
    if reason := _not_hopper(name, capability):
        return FlashCandidate(name, None, reason)
    if not _is_installed("flashinfer"):
        return FlashCandidate(
            name, None, f"{name} is not installed (pip install flashinfer-python)."
        )
    try:
        module = importlib.import_module("flashinfer.attention")
        wrapper = module.BatchAttentionWithAttentionSinkWrapper
        _require(wrapper.__init__, "window_left", "head_dim_qk", "backend")
        _require(wrapper.plan, "qo_indptr", "paged_kv_indptr", "window_left")
    except Exception as error:  # whatever its own imports raise
        return FlashCandidate(name, None, _sentence(name, error))
    return _found(name, FlashInfer(wrapper))


class FlashInfer:
    """FlashInfer plans a step on the host once; its layers then share the plan."""

    def __init__(self, wrapper: Callable[..., Any]) -> None:
        self._make = wrapper
        self._wrappers: dict[int | None, Any] = {}  # by window
        self._planned: dict[int | None, PagedBatch] = {}
        self._workspace: Tensor | None = None

    def __call__(
        self,
        q: Tensor,
        cache: LayerCache,
        paged: PagedBatch,
        sinks: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        if self._planned.get(window) is not paged:
            self._plan(q, cache, paged, scale, window)
        out = self._wrappers[window].run(
            q, (cache.keys, cache.values), sinks.to(torch.float32), scale
        )
        return _first(out)

    def _plan(
        self, q: Tensor, cache: LayerCache, paged: PagedBatch, scale: float, window: int | None
    ) -> None:
        page_size, kv_heads, head_dim = cache.keys.shape[1:]
        left = -1 if window is None else window - 1
        if self._workspace is None:
            self._workspace = torch.empty(_WORKSPACE, dtype=torch.uint8, device=q.device)
        if window not in self._wrappers:
            self._wrappers[window] = self._make(
                self._workspace,
                kv_layout="NHD",
                backend="fa3",
                q_data_type=q.dtype,
                kv_data_type=cache.keys.dtype,
                head_dim_qk=head_dim,
                head_dim_vo=head_dim,
                window_left=left,
            )
        keys = paged.kv_lens - paged.first_positions  # in pages, of each sequence
        counts = (keys + page_size - 1) // page_size
        columns = torch.arange(paged.page_table.shape[1], device=q.device)
        starts = torch.zeros(len(counts) + 1, dtype=torch.int32, device=q.device)
        starts[1:] = counts.cumsum(0)
        self._wrappers[window].plan(
            paged.query_starts,
            starts,
            paged.page_table[columns < counts[:, None]],
            (keys - 1) % page_size + 1,
            q.shape[1],
            kv_heads,
            head_dim,
            page_size,
            causal=True,
            sm_scale=scale,
            window_left=left,
            q_data_type=q.dtype,
            kv_data_type=cache.keys.dtype,
        )
        self._planned[window] = paged


def _look_for_modules(capability: tuple[int, int] | None) -> FlashCandidate:
    name = "FlashAttention 3 as a module"
    if reason := _not_hopper(name, capability):
        return FlashCandidate(name, None, reason)
    reasons = []
    for module in ("flash_attn_interface", "fa3_fwd_interface"):
        if not _is_installed(module):
            continue
        try:
            return _from_kvcache(module, importlib.import_module(module))
        except Exception as error:  # whatever its own imports raise
            reasons.append(_sentence(module, error))
    if not reasons and _is_installed("flash_attn"):
        reasons = ["flash_attn 2 is installed, which has no attention sinks."]
    return FlashCandidate(name, None, " ".join(reasons) or f"{name} is not installed.")


_LOOKS = (_look_in_hub_cache, _look_for_flash_4, _look_for_flashinfer, _look_for_modules)


def _from_kvcache(name: str, module: Any) -> FlashCandidate:
    """Of a module with FlashAttention 3's function for paged keys; raises if it has no sinks."""
    function = module.flash_attn_with_kvcache
    _require(function, "page_table", "cache_seqlens", "cu_seqlens_q", "max_seqlen_q")
    known = inspect.signature(function).parameters
    sink_argument = next((a for a in _SINK_ARGUMENTS if a in known), None)
    if sink_argument is None:
        raise TypeError("this build has no argument for attention sinks")

    def attend(
        q: Tensor,
        cache: LayerCache,
        paged: PagedBatch,
        sinks: Tensor,
        scale: float,
        window: int | None,
    ) -> Tensor:
        out = function(
            q,
            cache.keys,
            cache.values,
            cache_seqlens=paged.kv_lens - paged.first_positions,
            page_table=paged.page_table,
            cu_seqlens_q=paged.query_starts,
            max_seqlen_q=paged.max_query_len,
            softmax_scale=scale,
            causal=True,
            window_size=(-1, -1) if window is None else (window - 1, 0),
            **{sink_argument: sinks.to(q.dtype)},
        )
        return _first(out)

    return _found(name, attend)


def _found(name: str, attend: AttendPrefill) -> FlashCandidate:
    return FlashCandidate(name, FlashBackend(name, attend), "")


def _not_hopper(name: str, capability: tuple[int, int] | None) -> str:
    if capability is None:
        return f"{name} needs a CUDA GPU."
    if capability[0] != 9:
        return f"{name} is used on Hopper GPUs (H100, H200) only."
    return ""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except Exception:  # the package around it fails to import
        return False


def _require(function: Callable[..., Any], *arguments: str) -> None:
    known = inspect.signature(function).parameters
    if missing := [a for a in arguments if a not in known]:
        raise TypeError(f"this version has no argument {' or '.join(missing)}")


def _sentence(name: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{name} cannot be used: {lines[0] if lines else type(error).__name__}."


def _first(out: Any) -> Tensor:
    """Some return (out, log of the sums), some out alone."""
    tensor: Tensor = out[0] if isinstance(out, tuple) else out
    return tensor
